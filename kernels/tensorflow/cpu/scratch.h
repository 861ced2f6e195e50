/* A thread's own memory, cut up anew for every unit. From NULL it only counts. */
typedef struct {
  char *next;
} Scratch;

static inline void *take_bytes(Scratch *scratch, size_t bytes) {
  void *taken = scratch->next;
  scratch->next += (bytes + 63) & ~(size_t)63;
  return taken;
}

static inline float *take_floats(Scratch *scratch, int64_t count) {
  return take_bytes(scratch, sizeof(float) * (size_t)count);
}
