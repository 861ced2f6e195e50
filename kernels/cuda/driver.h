/* The CUDA driver, found at run time: runs plans (plan.h) in a stream of the current context. Every function returns NULL,
   or a sentence on what failed or is missing, which stays valid until the thread's next call. */
#ifndef MLA_DRIVER_H
#define MLA_DRIVER_H

#include "plan.h"

typedef struct CUstream_st *MlaStream;

/* Finds the driver; a second call does nothing. */
const char *mla_cuda_open(void);

typedef struct {
  char device[96];       /* its name */
  int capability;        /* as in MlaDevice, and so is the next */
  int multiprocessors;
  int driver_version;    /* the newest CUDA that the driver knows: 13000 for 13.0 */
  int images;            /* the CUDA that the modules for this driver were compiled by: 12 or 13 */
} MlaCudaReport;

/* Of the first GPU that the process may use, in a context or without. Fails too where no module is for this driver. */
const char *mla_cuda_report(MlaCudaReport *report);

/* The device of the current context. */
const char *mla_cuda_device(MlaDevice *device);

/* Puts all launches of a plan into the stream and returns. Loads the modules on their first use in a context. */
const char *mla_cuda_run(const MlaPlan *plan, MlaStream stream);

/* Copies within the device's memory, in a stream. */
const char *mla_cuda_copy(void *to, const void *from, size_t bytes, MlaStream stream);

/* Succeeds if the stream is of the current context. */
const char *mla_cuda_check_stream(MlaStream stream);

/* Waits for all that the current context has been given. */
const char *mla_cuda_synchronize(void);

/* A stream that waits for no other. */
const char *mla_cuda_new_stream(MlaStream *stream);

/* Lets a function of the host run in a stream; what comes after it there waits for its return. */
const char *mla_cuda_call(MlaStream stream, void (*function)(void *), void *argument);

#endif
