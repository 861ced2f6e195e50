/* The copy engine of sm_90 (PTX ISA: cp.async.bulk.tensor). */
#pragma once

#include "barrier.cuh"

/* What the driver calls CUtensorMap. */
struct alignas(64) TensorMap {
  unsigned char opaque[128];
};

/* Begins to copy the box at these indices, in elements, to shared memory; `done` counts its bytes. */
__device__ inline void copy_box(void *to, const TensorMap &map, int column, int position, int head, int batch,
                                Barrier &done) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2,%3,%4,%5}], [%6];"
      ::"r"(shared_address(to)), "l"(&map), "r"(column), "r"(position), "r"(head), "r"(batch),
      "r"(shared_address(&done.state))
      : "memory");
}
