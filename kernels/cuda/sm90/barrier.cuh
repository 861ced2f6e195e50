/* How the parts of a block wait for one another on sm_90 (PTX ISA: mbarrier, bar, setmaxnreg, fence.proxy). */
#pragma once

#include <stdint.h>

__device__ inline unsigned shared_address(const void *pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

/* A barrier in shared memory: a phase ends when ARRIVALS threads have arrived and the bytes they announced are there.
   Whoever waits names the parity of the phase, 0 for the first. */
struct Barrier {
  uint64_t state;

  __device__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&state)), "r"(arrivals));
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&state)) : "memory");
  }
  __device__ void arrive_and_expect(unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state)), "r"(bytes)
                 : "memory");
  }
  __device__ void wait(int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(shared_address(&state)),
        "r"(parity)
        : "memory");
  }
};

/* What init() wrote is seen by the copy engine. */
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/* What this thread wrote to shared memory is seen by wgmma and the copy engine. */
__device__ inline void publish_shared_memory() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* Barriers of the hardware, by number; 0 is __syncthreads(). */
__device__ inline void named_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/* A launch that is_early (../plan.h) may begin once all blocks of the one before have called the first or ended; what that
   one writes is there after the second. */
__device__ inline void start_dependents() { asm volatile("griddepcontrol.launch_dependents;"); }
__device__ inline void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/* The registers of each thread of a warpgroup from here on; the first gives some back, the second waits for them. There
   are no more than at the launch: 3 x 168 of three warpgroups are 24 + 2 x 240. */
template <int REGISTERS>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* A place in a ring of STAGES buffers, and the parity of the round. */
template <int STAGES>
struct Stage {
  int index = 0, parity = 0;

  __device__ void advance() {
    if (++index == STAGES) {
      index = 0;
      parity ^= 1;
    }
  }
};
