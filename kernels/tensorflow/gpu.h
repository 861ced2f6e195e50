/* One call of an op on TensorFlow's GPU, in the stream of TensorFlow's own ops: memory that an op has let go of is used
   again at once, by whatever comes next in that stream, and reading a tensor waits for that stream alone. */
#ifndef MLA_GPU_H
#define MLA_GPU_H

#include "../cuda/driver.h"
#include "tensorflow.h"

/* NULL, or in a sentence why there is nothing to register for GPUs. */
const char *gpu_open(void);

/* Plans a call as mla_plan does. */
typedef int Planner(const MlaDevice *device, const void *call, void *workspace, MlaPlan *plan);

/* Of a MlaRowCall. */
Planner gpu_plan_rows;

/* Runs a call on the device that TensorFlow makes it for. What goes wrong is in `status`. */
void gpu_run(TF_OpKernelContext *context, Planner *planner, const void *call, TF_Status *status);

/* The stream of a call. What is put into it stands between gpu_begin and gpu_end, which return NULL or what went wrong. */
const char *gpu_begin(TF_OpKernelContext *context, MlaStream *stream);
const char *gpu_end(MlaStream stream);

/* For tests: where the kernels run, and how long each waits there. The last two are wrong on purpose. */
typedef enum { STREAM_OF_TENSORFLOW, STREAM_AND_WAIT, STREAM_OF_OUR_OWN, STREAM_NULL } StreamChoice;
void gpu_choose_stream(StreamChoice choice, int delay_us);

/* How many calls there were, and how many of them waited for the device. */
void gpu_count_calls(int *calls, int *waits);

#endif
