/* TensorFlow's C API (tensorflow/c/{c_api,ops,kernels}.h), as far as it is used here: declared by ourselves and found in
   the copy that the process has loaded, so that one file serves every TensorFlow 2, in Node and in Python. */
#ifndef MLA_TENSORFLOW_H
#define MLA_TENSORFLOW_H

#include <stddef.h>
#include <stdint.h>

typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_Buffer TF_Buffer;
typedef struct TF_Graph TF_Graph;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_ShapeHandle TF_ShapeHandle;
typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpKernelConstruction TF_OpKernelConstruction;
typedef struct TF_OpKernelContext TF_OpKernelContext;

enum { TF_FLOAT = 1, TF_UINT8 = 4, TF_BFLOAT16 = 14, TF_HALF = 19 };
enum { TF_OK = 0, TF_INVALID_ARGUMENT = 3, TF_RESOURCE_EXHAUSTED = 8, TF_UNIMPLEMENTED = 12, TF_INTERNAL = 13 };

typedef struct {
  size_t struct_size;
  unsigned char on_host;
} TF_AllocatorAttributes;

/* F(result, name, arguments) */
#define TF_FUNCTIONS(F)                                                                                                \
  F(const char *, TF_Version, (void))                                                                                  \
  F(TF_Status *, TF_NewStatus, (void))                                                                                 \
  F(void, TF_DeleteStatus, (TF_Status *))                                                                              \
  F(void, TF_SetStatus, (TF_Status *, int, const char *))                                                              \
  F(int, TF_GetCode, (const TF_Status *))                                                                              \
  F(const char *, TF_Message, (const TF_Status *))                                                                     \
  F(TF_Buffer *, TF_NewBuffer, (void))                                                                                 \
  F(void, TF_DeleteBuffer, (TF_Buffer *))                                                                              \
  F(TF_Graph *, TF_NewGraph, (void))                                                                                   \
  F(void, TF_DeleteGraph, (TF_Graph *))                                                                                \
  F(void, TF_GraphGetOpDef, (TF_Graph *, const char *, TF_Buffer *, TF_Status *))                                      \
  F(void, TF_DeleteTensor, (TF_Tensor *))                                                                              \
  F(int, TF_TensorType, (const TF_Tensor *))                                                                           \
  F(int, TF_NumDims, (const TF_Tensor *))                                                                              \
  F(int64_t, TF_Dim, (const TF_Tensor *, int))                                                                         \
  F(void *, TF_TensorData, (const TF_Tensor *))                                                                        \
  F(int64_t, TF_TensorElementCount, (const TF_Tensor *))                                                               \
  F(size_t, TF_DataTypeSize, (int))                                                                                    \
  F(TF_OpDefinitionBuilder *, TF_NewOpDefinitionBuilder, (const char *))                                               \
  F(void, TF_OpDefinitionBuilderAddAttr, (TF_OpDefinitionBuilder *, const char *))                                     \
  F(void, TF_OpDefinitionBuilderAddInput, (TF_OpDefinitionBuilder *, const char *))                                    \
  F(void, TF_OpDefinitionBuilderAddOutput, (TF_OpDefinitionBuilder *, const char *))                                   \
  F(void, TF_OpDefinitionBuilderSetIsStateful, (TF_OpDefinitionBuilder *, unsigned char))                              \
  F(void, TF_OpDefinitionBuilderSetShapeInferenceFunction,                                                             \
    (TF_OpDefinitionBuilder *, void (*)(TF_ShapeInferenceContext *, TF_Status *)))                                     \
  F(void, TF_RegisterOpDefinition, (TF_OpDefinitionBuilder *, TF_Status *))                                            \
  F(TF_ShapeHandle *, TF_NewShapeHandle, (void))                                                                       \
  F(void, TF_DeleteShapeHandle, (TF_ShapeHandle *))                                                                    \
  F(void, TF_ShapeInferenceContextSetUnknownShape, (TF_ShapeInferenceContext *, TF_Status *))                          \
  F(void, TF_ShapeInferenceContextGetInput, (TF_ShapeInferenceContext *, int, TF_ShapeHandle *, TF_Status *))          \
  F(void, TF_ShapeInferenceContextSetOutput, (TF_ShapeInferenceContext *, int, TF_ShapeHandle *, TF_Status *))         \
  F(void, TF_ShapeInferenceContextSubshape,                                                                            \
    (TF_ShapeInferenceContext *, TF_ShapeHandle *, int64_t, int64_t, TF_ShapeHandle *, TF_Status *))                   \
  F(void, TF_ShapeInferenceContextConcatenateShapes,                                                                   \
    (TF_ShapeInferenceContext *, TF_ShapeHandle *, TF_ShapeHandle *, TF_ShapeHandle *, TF_Status *))                   \
  F(TF_KernelBuilder *, TF_NewKernelBuilder,                                                                           \
    (const char *, const char *, void *(*)(TF_OpKernelConstruction *), void (*)(void *, TF_OpKernelContext *),         \
     void (*)(void *)))                                                                                                \
  F(void, TF_KernelBuilder_HostMemory, (TF_KernelBuilder *, const char *))                                             \
  F(void, TF_RegisterKernelBuilder, (const char *, TF_KernelBuilder *, TF_Status *))                                   \
  F(void, TF_OpKernelConstruction_GetAttrString,                                                                       \
    (TF_OpKernelConstruction *, const char *, char *, size_t, TF_Status *))                                            \
  F(void, TF_OpKernelConstruction_GetAttrFloat, (TF_OpKernelConstruction *, const char *, float *, TF_Status *))       \
  F(void, TF_OpKernelConstruction_GetAttrInt64, (TF_OpKernelConstruction *, const char *, int64_t *, TF_Status *))     \
  F(void, TF_OpKernelConstruction_Failure, (TF_OpKernelConstruction *, TF_Status *))                                   \
  F(void, TF_OpKernelContext_Failure, (TF_OpKernelContext *, TF_Status *))                                             \
  F(void, TF_GetInput, (TF_OpKernelContext *, int, TF_Tensor **, TF_Status *))                                         \
  F(TF_Tensor *, TF_AllocateOutput,                                                                                    \
    (TF_OpKernelContext *, int, int, const int64_t *, int, size_t, TF_Status *))                                       \
  F(TF_Tensor *, TF_AllocateTemp,                                                                                      \
    (TF_OpKernelContext *, int, const int64_t *, int, TF_AllocatorAttributes *, TF_Status *))

typedef struct {
#define TF_DECLARE(result, name, arguments) result(*name) arguments;
  TF_FUNCTIONS(TF_DECLARE)
#undef TF_DECLARE
} TensorFlow;

/* The functions; all are there once find_tensorflow has returned NULL. */
extern TensorFlow tf;

/* OpKernelContext::eigen_gpu_device() of C++, by its name as an explicit specialisation; NULL if it is not there. */
extern const void *(*tf_eigen_gpu_device)(const TF_OpKernelContext *);

/* Looks for TensorFlow in this process. NULL, or in a sentence what is missing. */
const char *find_tensorflow(void);

/* Registers our ops and their kernels. NULL, or in a sentence why not. */
const char *register_ops(void);

#endif
