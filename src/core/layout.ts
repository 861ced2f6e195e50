/**
 * The only place that knows what the layout names mean. Everything below the ops sees strides.
 */
export const layouts = ['bshd', 'bhsd', 'sbhd'] as const;

/** Order of the axes of q, k, v and out: b batch, s sequence, h heads, d head size. */
export type Layout = (typeof layouts)[number];

export interface Dims {
  b: number;
  s: number;
  h: number;
  d: number;
}

/** Steps in elements from one batch entry, sequence position or head to the next; the last axis is dense. */
// a type alias and no interface: only those count as tfjs attributes
// eslint-disable-next-line @typescript-eslint/consistent-type-definitions
export type Strides = { b: number; s: number; h: number };

const axes: Record<Layout, { b: 0 | 1; s: 0 | 1 | 2; h: 1 | 2 }> = {
  bshd: { b: 0, s: 1, h: 2 },
  bhsd: { b: 0, s: 2, h: 1 },
  sbhd: { b: 1, s: 0, h: 2 },
};

/** The dims of a four-dimensional shape in this layout. */
export function dimsOf(shape: readonly number[], layout: Layout): Dims {
  const axis = axes[layout];
  return { b: shape[axis.b], s: shape[axis.s], h: shape[axis.h], d: shape[3] };
}

/** The shape of a tensor with these dims; entries may be texts, for messages. */
export function shapeOf<T>(dims: { b: T; s: T; h: T; d: T }, layout: Layout): [T, T, T, T] {
  const shape: [T, T, T, T] = [dims.d, dims.d, dims.d, dims.d];
  const axis = axes[layout];
  shape[axis.b] = dims.b;
  shape[axis.s] = dims.s;
  shape[axis.h] = dims.h;
  return shape;
}

/** The shape of a tensor without heads, such as kRope: [b, s, d], or [s, b, d] for 'sbhd'. */
export function sharedShapeOf<T>(dims: { b: T; s: T; d: T }, layout: Layout): [T, T, T] {
  return layout === 'sbhd' ? [dims.s, dims.b, dims.d] : [dims.b, dims.s, dims.d];
}

export function stridesOf({ b, s, h, d }: Dims, layout: Layout): Strides {
  switch (layout) {
    case 'bshd':
      return { b: s * h * d, s: h * d, h: d };
    case 'bhsd':
      return { b: h * s * d, s: d, h: s * d };
    case 'sbhd':
      return { b: h * d, s: b * h * d, h: d };
  }
}

/** Strides of a tensor without heads: every head reads the same rows. */
export function sharedStridesOf({ b, s, d }: { b: number; s: number; d: number }, layout: Layout): Strides {
  return layout === 'sbhd' ? { b: d, s: b * d, h: 0 } : { b: s * d, s: d, h: 0 };
}

/** The transposition that takes a per-row number [b, h, s] to the order of the axes of out. */
export function statOrder(layout: Layout): number[] {
  const order = [0, 0, 0];
  const axis = axes[layout];
  order[axis.b] = 0;
  order[axis.h] = 1;
  order[axis.s] = 2;
  return order;
}

/** The inverse of statOrder: from the order of the axes of out to [b, h, s]. */
export function statOrderInverse(layout: Layout): number[] {
  const axis = axes[layout];
  return [axis.b, axis.h, axis.s];
}

/** The transposition of a tensor with heads to [b, h, s, d]. */
export function toHeadsFirst(layout: Layout): number[] {
  return [...statOrderInverse(layout), 3];
}

/** The transposition of [b, h, s, d] back to the layout. */
export function fromHeadsFirst(layout: Layout): number[] {
  return [...statOrder(layout), 3];
}

/** The transposition of a tensor without heads to [b, s, d], and back: it is its own inverse. */
export function toBatchFirst(layout: Layout): number[] {
  return layout === 'sbhd' ? [1, 0, 2] : [0, 1, 2];
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, dim) => size * dim, 1);
}
