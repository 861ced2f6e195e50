/** One call as the host writes it (../problemBlock.ts): numbers of four bytes each, then the rows of every tensor. */
@unmanaged
export class Problem {
  batch!: i32;
  hq!: i32;
  hkv!: i32;
  sq!: i32;
  skv!: i32;
  dn!: i32;
  dr!: i32;
  dv!: i32;
  softmaxScale!: f32;
  /** 1 in MLADecode: key and value are one tensor */
  isDecode!: i32;
  /** 1 if key, rope part and value are float16, two to a word */
  isPacked!: i32;
  /** keys that a row sees left and right of its diagonal, the causal mask included */
  left!: i32;
  right!: i32;
  isTopLeft!: i32;
  /** int32 [b], or 0 */
  qLengths!: usize;
  kvLengths!: usize;
  /** float32 [b, hq, sq] each, or 0 */
  lse!: usize;
  delta!: usize;
  dLse!: usize;
}

/** The tensors behind the numbers. A kernel finds those that it reads or writes. */
export const enum Tensor {
  q,
  qRope,
  k,
  kRope,
  v,
  out,
  dOut,
  dQ,
  dQRope,
  dK,
  dKRope,
  dV,
}

/** The rows of a tensor: its address, and the bytes from one batch entry, position or head to the next. */
@unmanaged
export class Rows {
  start!: usize;
  batchBytes!: usize;
  positionBytes!: usize;
  headBytes!: usize;

  @inline
  at(batch: i32, position: i32, head: i32): usize {
    return (
      this.start +
      (batch as usize) * this.batchBytes +
      (position as usize) * this.positionBytes +
      (head as usize) * this.headBytes
    );
  }
}

export function rowsOf(problem: Problem, tensor: Tensor): Rows {
  const at = changetype<usize>(problem) + offsetof<Problem>() + (tensor as usize) * offsetof<Rows>();
  return changetype<Rows>(at);
}
