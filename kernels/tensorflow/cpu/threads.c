/* The instruction set of this machine, and a pool of threads on the processors that the process may use. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <xmmintrin.h>

#include "mla_cpu.h"

/* Versions that every glibc has: the file then runs on older systems than the one that it was built on. */
__asm__(".symver pthread_once,pthread_once@GLIBC_2.2.5");
__asm__(".symver pthread_create,pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_mutex_trylock,pthread_mutex_trylock@GLIBC_2.2.5");
__asm__(".symver pthread_attr_setdetachstate,pthread_attr_setdetachstate@GLIBC_2.2.5");

enum { MOST_THREADS = 64 };

typedef void RunUnit(const void *call, int unit, void *scratch);

/* The job at hand. Threads take units, the last ones first, until none is left. */
static struct {
  RunUnit *run_unit;
  const void *call;
  char *scratch; /* of thread 0; the others' follow */
  size_t scratch_bytes;
  unsigned float_mode;       /* of the calling thread: TensorFlow's takes denormal numbers for zeros */
  int remaining, unfinished; /* atomic */
  int number;                /* counts the jobs: idle threads sleep until it changes */
} job;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t published = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
/* Held for a whole call. Calls of other threads of the host run alone on their thread meanwhile. */
static pthread_mutex_t pool = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t started = PTHREAD_ONCE_INIT;
static const MlaCpuKernels *kernels;
static int threads = 1;

static void work(int thread) {
  for (;;) {
    int unit = __atomic_sub_fetch(&job.remaining, 1, __ATOMIC_ACQ_REL);
    if (unit < 0) return;
    _mm_setcsr(job.float_mode); /* here, as a thread may still be here when the next job begins */
    job.run_unit(job.call, unit, job.scratch + (size_t)thread * job.scratch_bytes);
    if (__atomic_sub_fetch(&job.unfinished, 1, __ATOMIC_ACQ_REL) > 0) continue;
    pthread_mutex_lock(&mutex);
    pthread_cond_signal(&finished);
    pthread_mutex_unlock(&mutex);
  }
}

static void *serve(void *thread) {
  for (int seen = 0;;) {
    pthread_mutex_lock(&mutex);
    while (job.number == seen) pthread_cond_wait(&published, &mutex);
    seen = job.number;
    pthread_mutex_unlock(&mutex);
    work((int)(intptr_t)thread);
  }
  return NULL;
}

static void start(void) {
  __builtin_cpu_init();
  /* MLA_CPU, a switch for tests: no better instructions than these */
  const char *most = getenv("MLA_CPU");
  int may_avx512 = !most || !strcmp(most, "avx512"), may_avx2 = may_avx512 || !strcmp(most, "avx2");
  int has_fma = __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (may_avx512 && has_fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    kernels = &mla_cpu_avx512;
  else if (may_avx2 && has_fma && __builtin_cpu_supports("avx2")) kernels = &mla_cpu_avx2;
  else kernels = &mla_cpu_sse2;

  cpu_set_t set;
  int processors = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
  if (processors > MOST_THREADS) processors = MOST_THREADS;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  for (; threads < processors; threads++) {
    pthread_t id;
    if (pthread_create(&id, &attributes, serve, (void *)(intptr_t)threads)) break;
  }
  pthread_attr_destroy(&attributes);
}

static void run_on_all_threads(int units) {
  pthread_mutex_lock(&mutex);
  job.number++;
  job.float_mode = _mm_getcsr();
  __atomic_store_n(&job.unfinished, units, __ATOMIC_RELEASE);
  /* after all that: who takes a unit sees the whole job that it belongs to */
  __atomic_store_n(&job.remaining, units, __ATOMIC_RELEASE);
  pthread_cond_broadcast(&published);
  pthread_mutex_unlock(&mutex);
  work(0);
  pthread_mutex_lock(&mutex);
  while (__atomic_load_n(&job.unfinished, __ATOMIC_ACQUIRE) > 0) pthread_cond_wait(&finished, &mutex);
  pthread_mutex_unlock(&mutex);
}

static int run_units(RunUnit *run_unit, const void *call, int units, size_t bytes) {
  if (units == 0) return 1;
  int has_pool = units > 1 && threads > 1 && pthread_mutex_trylock(&pool) == 0;
  char *scratch = bytes ? aligned_alloc(64, bytes * (size_t)(has_pool ? threads : 1)) : NULL;
  int has_memory = scratch || !bytes;
  if (has_memory && has_pool) {
    job.run_unit = run_unit;
    job.call = call;
    job.scratch = scratch;
    job.scratch_bytes = bytes;
    run_on_all_threads(units);
  } else if (has_memory) {
    while (units > 0) run_unit(call, --units, scratch);
  }
  free(scratch);
  if (has_pool) pthread_mutex_unlock(&pool);
  return has_memory;
}

typedef struct {
  MlaCpuJob kind;
  const MlaParams *params;
  float *rope_parts;
} AttentionCall;

static void run_attention_unit(const void *of, int unit, void *scratch) {
  const AttentionCall *call = of;
  kernels->run_unit(call->kind, call->params, call->rope_parts, unit, scratch);
}

static int run(MlaCpuJob kind, const MlaParams *params, float *rope_parts) {
  AttentionCall call = {kind, params, rope_parts};
  return run_units(run_attention_unit, &call, kernels->units(kind, params), kernels->scratch_bytes(kind, params));
}

/* One walk for all gradients saves a quarter of the products, but its units are few and large: it pays where the threads,
   who take a unit each in every round, are idle for no more than a quarter of the rounds. */
static int is_one_walk(int units) {
  int turns = (units + threads - 1) / threads * threads;
  return turns - units <= turns / 4;
}

static int run_one_walk(const MlaParams *params) {
  size_t numbers = (size_t)params->batch * (size_t)params->hkv * (size_t)params->skv * (size_t)params->dr;
  float *rope_parts = malloc(numbers * sizeof(float));
  int is_done = rope_parts && run(JOB_BACKWARD, params, rope_parts) && run(JOB_ROPE_SUM, params, rope_parts);
  free(rope_parts);
  return is_done;
}

/* The two give the same bits. */
static int run_gradients(const MlaParams *params) {
  if (is_one_walk(kernels->units(JOB_BACKWARD, params)) && run_one_walk(params)) return 1;
  return run(JOB_DQ, params, NULL) && run(JOB_DKV, params, NULL);
}

static int run_backward(const MlaParams *of) {
  MlaParams params = *of;
  float *delta = malloc((size_t)of->batch * (size_t)of->hq * (size_t)of->sq * sizeof(float));
  params.delta = delta;
  int is_done = delta && run(JOB_DELTA, &params, NULL) && run_gradients(&params);
  free(delta);
  return is_done;
}

int mla_cpu_run(MlaKernel kernel, const MlaParams *params) {
  pthread_once(&started, start);
  switch (kernel) {
    case MLA_FORWARD: return run(JOB_FORWARD, params, NULL);
    case MLA_DELTA: return run(JOB_DELTA, params, NULL);
    case MLA_DQ: return run(JOB_DQ, params, NULL);
    case MLA_DKV: return run(JOB_DKV, params, NULL);
    case MLA_BACKWARD: return run_backward(params);
  }
  return 0;
}

static void run_row_unit(const void *call, int unit, void *scratch) {
  (void)scratch;
  kernels->run_row_unit(call, unit);
}

static void sum_gain_parts(const MlaNorm *p) {
  memset(p->d_gain, 0, sizeof(float) * (size_t)p->columns);
  for (int64_t part = 0; part < p->parts; part++)
    for (int c = 0; c < p->columns; c++) p->d_gain[c] += p->gain_parts[part * p->columns + c];
}

static void mean_of_losses(const MlaCrossEntropy *p) {
  double sum = 0;
  for (int64_t row = 0; row < p->rows; row++) sum += p->row_losses[row];
  *p->loss = (float)(sum / (double)p->rows);
}

static void norm_of_squares(const MlaAdam *p) {
  double sum = 0;
  for (int piece = 0; piece < p->pieces; piece++) sum += p->squares[piece];
  *p->norm = (float)__builtin_sqrt(sum);
}

static int run_rows(const MlaRowCall *call) { return run_units(run_row_unit, call, kernels->row_units(call), 0); }

/* Numbers that the units leave, to be added in order once all are there. */
static int64_t numbers_left(const MlaRowCall *call) {
  switch (call->kernel) {
    case MLA_NORM_BACKWARD: return call->arguments.norm.parts * call->arguments.norm.columns;
    case MLA_CROSS_ENTROPY: return call->arguments.cross_entropy.rows;
    case MLA_ADAM: return call->arguments.adam.pieces;
    default: return 0;
  }
}

int mla_cpu_run_rows(const MlaRowCall *of) {
  pthread_once(&started, start);
  MlaRowCall call = *of;
  float *left = malloc(sizeof(float) * (size_t)numbers_left(of) + 1);
  if (!left) return 0;
  switch (call.kernel) {
    case MLA_NORM_BACKWARD:
      call.arguments.norm.gain_parts = left;
      run_rows(&call);
      sum_gain_parts(&call.arguments.norm);
      break;
    case MLA_CROSS_ENTROPY:
      call.arguments.cross_entropy.row_losses = left;
      run_rows(&call);
      mean_of_losses(&call.arguments.cross_entropy);
      break;
    case MLA_ADAM:
      call.arguments.adam.squares = left;
      call.kernel = MLA_ADAM_NORM;
      run_rows(&call);
      norm_of_squares(&call.arguments.adam);
      call.kernel = MLA_ADAM;
      run_rows(&call);
      break;
    default: run_rows(&call);
  }
  free(left);
  return 1;
}

const char *mla_cpu_name(void) {
  pthread_once(&started, start);
  return kernels->name;
}

int mla_cpu_threads(void) {
  pthread_once(&started, start);
  return threads;
}
