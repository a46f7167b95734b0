/* SPDX-License-Identifier: GPL-2.0-or-later
 * What one AArch64 instruction does to the counters. Source of the encodings: Arm Architecture Reference Manual for
 * A-profile, section C4 "A64 instruction set encoding". */
#ifndef IDP_DEPLOY_DECODE_H
#define IDP_DEPLOY_DECODE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  uint32_t macs;   /* products added to an accumulator, and the widening multiplies that begin such a sum */
  uint32_t loaded; /* bytes */
  uint32_t stored;
} effect;

typedef enum {
  ONE,      /* scalar */
  BY_SZ,    /* float32 or float64 lanes, bit 22 */
  BY_SIZE,  /* integer lanes as wide as bits 23:22 say */
  HALF,     /* float16 lanes */
  WIDENING, /* integer lanes of half a register, bits 23:22 */
  PAIR,     /* float16 lanes of half the width, widened to float32 */
  DOT2,     /* two products a 32-bit lane */
  DOT4,     /* four */
  TILE16,   /* 2×4 times 4×2 */
  TILE32,   /* 2×8 times 8×2 */
} shape;

typedef struct {
  uint32_t mask, bits;
  shape shape;
} row;

static const row ROWS[] = {
    {0xbf20fc00, 0x0e20cc00, BY_SZ},    /* FMLA, FMLS */
    {0xbf80b400, 0x0f801000, BY_SZ},    /* … by element */
    {0xbf60fc00, 0x0e400c00, HALF},     /* FMLA, FMLS of float16 */
    {0xbfc0b400, 0x0f001000, HALF},     /* … by element */
    {0xff80b400, 0x5f801000, ONE},      /* FMLA, FMLS scalar by element */
    {0xffc0b400, 0x5f001000, ONE},      /* … of float16 */
    {0xff000000, 0x1f000000, ONE},      /* FMADD, FMSUB, FNMADD, FNMSUB */
    {0xbf60fc00, 0x0e20ec00, PAIR},     /* FMLAL, FMLSL */
    {0xbf60fc00, 0x2e20cc00, PAIR},     /* FMLAL2, FMLSL2 */
    {0xbfc0b400, 0x0f800000, PAIR},     /* FMLAL, FMLSL by element */
    {0xbfc0b400, 0x2f808000, PAIR},     /* FMLAL2, FMLSL2 by element */
    {0x9f20fc00, 0x0e209400, BY_SIZE},  /* MLA, MLS */
    {0xbf00b400, 0x2f000000, BY_SIZE},  /* … by element */
    {0x9f20dc00, 0x0e208000, WIDENING}, /* SMLAL, SMLSL, UMLAL, UMLSL */
    {0x9f20fc00, 0x0e20c000, WIDENING}, /* SMULL, UMULL */
    {0x9f00b400, 0x0f002000, WIDENING}, /* SMLAL, SMLSL, UMLAL, UMLSL by element */
    {0x9f00f400, 0x0f00a000, WIDENING}, /* SMULL, UMULL by element */
    {0x9fe0fc00, 0x0e809400, DOT4},     /* SDOT, UDOT */
    {0x9fc0f400, 0x0f80e000, DOT4},     /* … by element */
    {0xbfe0fc00, 0x0e809c00, DOT4},     /* USDOT */
    {0xbf40f400, 0x0f00f000, DOT4},     /* USDOT, SUDOT by element */
    {0xdfe0fc00, 0x4e80a400, TILE32},   /* SMMLA, UMMLA */
    {0xffe0fc00, 0x4e80ac00, TILE32},   /* USMMLA */
    {0xbfe0fc00, 0x2e40fc00, DOT2},     /* BFDOT */
    {0xbfc0f400, 0x0f40f000, DOT2},     /* … by element */
    {0xffe0fc00, 0x6e40ec00, TILE16},   /* BFMMLA */
};

static inline uint32_t field(uint32_t word, int high, int low) {
  return word >> low & ((1u << (high - low + 1)) - 1);
}

static inline uint32_t macs_of(uint32_t word) {
  for (unsigned i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
    if ((word & ROWS[i].mask) != ROWS[i].bits) {
      continue;
    }
    uint32_t registers = 1 + field(word, 30, 30), size = field(word, 23, 22); /* of 64 bits */
    switch (ROWS[i].shape) {
      case ONE: return 1;
      case BY_SZ: return registers * (field(word, 22, 22) ? 1 : 2);
      case BY_SIZE: return registers * (8u >> size);
      case HALF: return registers * 4;
      case WIDENING: return 8u >> size;
      case PAIR: return registers * 2;
      case DOT2: return registers * 4;
      case DOT4: return registers * 8;
      case TILE16: return 16;
      case TILE32: return 32;
    }
  }
  return 0;
}

/* Registers of LD1…LD4 and ST1…ST4 (multiple structures) by opcode, bits 15:12; 0: unallocated. */
static const uint8_t STRUCTURES[16] = {4, 0, 4, 0, 3, 0, 3, 1, 2, 0, 2, 0, 0, 0, 0, 0};

static inline effect moved(uint32_t bytes, bool loads, bool stores) {
  return (effect){0, loads ? bytes : 0, stores ? bytes : 0};
}

static inline effect memory_of(uint32_t word) {
  const effect none = {0, 0, 0};
  if ((word & 0x0a000000) != 0x08000000) {
    return none;
  }
  uint32_t kind = field(word, 29, 28), top = field(word, 31, 30), q = field(word, 30, 30);
  bool vector = field(word, 26, 26), later = field(word, 24, 24), load = field(word, 22, 22);
  if (kind == 0 && vector) {
    if (field(word, 31, 31)) {
      return none;
    }
    if (!later) { /* multiple structures */
      return moved(STRUCTURES[field(word, 15, 12)] * (8u << q), load, !load);
    }
    uint32_t opcode = field(word, 15, 13), scale = opcode >> 1, size = field(word, 11, 10);
    uint32_t elements = ((opcode & 1) << 1 | field(word, 21, 21)) + 1;
    if (scale == 3 || (scale == 2 && size == 1)) {
      scale = scale == 3 ? size : 3; /* load and replicate; 64-bit lane */
    }
    return moved(elements << scale, load, !load);
  }
  if (kind == 0) { /* exclusive, ordered, compare and swap */
    bool swap = field(word, 21, 21) && (field(word, 23, 23) || top < 2), pair = field(word, 21, 21) && !field(word, 23, 23);
    uint32_t bytes = swap && pair ? 8u << top : (1u << top) << pair;
    return later ? none : moved(bytes, load || swap, !load || swap);
  }
  if (kind == 1 && !later) { /* literal; its bit 22 belongs to the offset */
    bool prefetch = !vector && top == 3;
    return prefetch || (vector && top == 3) ? none : moved(vector ? 4u << top : top == 1 ? 8 : 4, true, false);
  }
  if (kind == 1) { /* RCpc unscaled: op0 01 with bit 24 */
    return moved(1u << top, field(word, 23, 22) != 0, field(word, 23, 22) == 0);
  }
  if (kind == 2) { /* pairs */
    return moved(2 * (vector ? 4u << top : top == 2 ? 8 : 4), load, !load);
  }
  uint32_t action = field(word, 23, 22);
  if (!vector && !later && field(word, 21, 21) && field(word, 11, 10) == 0) {
    return moved(1u << top, true, true); /* atomic */
  }
  if (vector) {
    return moved(action >> 1 ? 16 : 1u << top, load, !load);
  }
  if (top == 3 && action == 2) {
    return none; /* prefetch */
  }
  return moved(1u << top, action != 0, action == 0);
}

static inline effect effect_of(uint32_t word) {
  effect found = memory_of(word);
  found.macs = macs_of(word);
  return found;
}

#endif
