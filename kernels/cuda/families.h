/* The families of kernels, each a folder with a plan.c. They return 0, with the plan in any state, where they do not
   serve a call. */
#ifndef MLA_FAMILIES_H
#define MLA_FAMILIES_H

#include "plan.h"

typedef int MlaFamily(const MlaDevice *, MlaKernel, const MlaParams *, void *workspace, MlaPlan *);

MlaFamily mla_plan_sm90;    /* wgmma and TMA, Hopper */
MlaFamily mla_plan_sm80;    /* mma.sync and cp.async, Ampere and newer */
MlaFamily mla_plan_general; /* multiply-adds in float32: every type and size */

#endif
