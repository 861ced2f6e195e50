/* The compiled .cu files inside this library. The build makes the file that fills the table. */
#ifndef MLA_MODULES_H
#define MLA_MODULES_H

typedef struct {
  const char *name;                             /* as in MlaLaunch */
  const unsigned char *start, *end;             /* a fatbin of CUDA 13: for drivers of 580 and newer */
  const unsigned char *older_start, *older_end; /* the same from CUDA 12, for older drivers; NULL if there is none */
} MlaModule;

/* The last has no name. */
extern const MlaModule mla_modules[];

#endif
