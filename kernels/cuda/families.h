/* The families of kernels, each a folder with a plan.c. They add to a plan, and return 0, with what they added in any state,
   where they do not serve a call. For MLA_BACKWARD delta is planned before them. */
#ifndef MLA_FAMILIES_H
#define MLA_FAMILIES_H

#include "plan.h"

typedef int MlaFamily(const MlaDevice *, MlaKernel, const MlaParams *, void *workspace, MlaPlan *);

/* mla_plan with this family alone, or with all of them if it is NULL. */
int mla_plan_in(MlaFamily *only, const MlaDevice *, MlaKernel, const MlaParams *, void *workspace, MlaPlan *);

MlaFamily mla_plan_sm90;    /* wgmma and TMA, Hopper */
MlaFamily mla_plan_sm80;    /* mma.sync and cp.async, Ampere and newer */
MlaFamily mla_plan_general; /* multiply-adds in float32: every type and size */

#endif
