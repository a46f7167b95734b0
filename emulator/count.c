/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A QEMU TCG plugin that counts what an AArch64 program executes between two marks: instructions, multiply-accumulates
 * and the bytes of its loads and stores. A window opens where the program calls close(0x5EED0001) and ends where it
 * calls close(0x5EED0002). At exit one line of JSON a window goes to standard error, behind "IDP-DEPLOY ".
 *
 * Counting is inline and once per translated block, so the counts are those of one thread: run one.
 *
 * This program is free software; you can redistribute it and/or modify it under the terms of the GNU General Public
 * License as published by the Free Software Foundation; either version 2 of the License, or (at your option) any later
 * version. It comes with no warranty; see the file LICENSE beside it. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "decode.h"
#include "plugin_api.h"

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { CLOSE = 57, OPENED = 0x5EED0001, CLOSED = 0x5EED0002, WINDOWS = 256 };

typedef struct {
  uint64_t instructions, macs, loaded, stored;
} counts;

static counts now, begun, windows[WINDOWS];
static int complete;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  size_t length = qemu_plugin_tb_n_insns(block);
  counts sum = {length, 0, 0, 0};
  (void)id;
  for (size_t i = 0; i < length; i++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
    effect does = effect_of(word);
    sum.macs += does.macs;
    sum.loaded += does.loaded;
    sum.stored += does.stored;
  }
  uint64_t *to[] = {&now.instructions, &now.macs, &now.loaded, &now.stored};
  uint64_t by[] = {sum.instructions, sum.macs, sum.loaded, sum.stored};
  for (int i = 0; i < 4; i++) {
    if (by[i]) {
      qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, to[i], by[i]);
    }
  }
}

static void called(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != CLOSE) {
    return;
  }
  if ((uint32_t)a1 == OPENED) {
    begun = now;
  } else if ((uint32_t)a1 == CLOSED && complete < WINDOWS) {
    windows[complete++] = (counts){now.instructions - begun.instructions, now.macs - begun.macs,
                                   now.loaded - begun.loaded, now.stored - begun.stored};
  }
}

static void ended(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  for (int i = 0; i < complete; i++) {
    fprintf(stderr,
            "IDP-DEPLOY {\"instructions\": %" PRIu64 ", \"macs\": %" PRIu64 ", \"bytes_loaded\": %" PRIu64
            ", \"bytes_stored\": %" PRIu64 "}\n",
            windows[i].instructions, windows[i].macs, windows[i].loaded, windows[i].stored);
  }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                                               char **argv) {
  (void)argc, (void)argv;
  if (strcmp(info->target_name, "aarch64") != 0) {
    fprintf(stderr, "this counts aarch64 programs, not %s ones\n", info->target_name);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
