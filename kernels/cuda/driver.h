/* The CUDA driver, found at run time: runs plans (plan.h) in a stream of the current context. Every function returns NULL,
   or a sentence on what failed or is missing, which stays valid until the thread's next call. */
#ifndef MLA_DRIVER_H
#define MLA_DRIVER_H

#include "plan.h"

typedef struct CUstream_st *MlaStream;

/* Finds the driver; a second call does nothing. */
const char *mla_cuda_open(void);

/* The device of the current context. */
const char *mla_cuda_device(MlaDevice *device);

/* Puts all launches of a plan into the stream and returns. Loads the modules on their first use in a context. */
const char *mla_cuda_run(const MlaPlan *plan, MlaStream stream);

#endif
