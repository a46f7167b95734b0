/* SPDX-License-Identifier: GPL-2.0-or-later
 * Reads instruction words in hexadecimal, one a line, and writes each with the counts of decode.h: MACs, bytes loaded,
 * bytes stored. The tests compile and run it. */

#include <inttypes.h>
#include <stdio.h>

#include "decode.h"

int main(void) {
  uint32_t word;
  while (scanf("%" SCNx32, &word) == 1) {
    effect does = effect_of(word);
    printf("%08" PRIx32 " %" PRIu32 " %" PRIu32 " %" PRIu32 "\n", word, does.macs, does.loaded, does.stored);
  }
  return 0;
}
