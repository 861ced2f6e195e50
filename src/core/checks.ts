/** What the checks of a call are made of. Each throws an error that names the function, the tensor, what was expected and got. */
import { cacheDtype } from './cacheFormat.js';
import type { CacheFormat } from './cacheFormat.js';
import { fail, shapeText } from './errors.js';
import { layouts, shapeOf, sharedShapeOf } from './layout.js';
import type { Layout } from './layout.js';
import type { Described, Lengths } from './problem.js';

export function checkLayout(fn: string, layout: Layout = 'bshd'): Layout {
  if (!layouts.includes(layout)) {
    fail(fn, `layout must be one of ${layouts.join(', ')}, got ${String(layout)}`);
  }
  return layout;
}

/** The text is made where a check has failed: a call that is right makes none. */
export function checkRank(
  fn: string,
  name: string,
  { shape, isDisposed }: Described,
  axes: readonly string[],
  layout?: Layout,
): void {
  if (isDisposed) fail(fn, `${name} is disposed`);
  if (shape.length !== axes.length) {
    const forLayout = layout ? ` for layout '${layout}'` : '';
    const expected = axesText(axes, layout);
    fail(fn, `${name} must be ${expected}${forLayout}, got rank ${shape.length} ${shapeText(shape)}`);
  }
}

/** Axes that are named in the order of 'bshd', or 'bsd', as a layout orders them. */
export function axesText(axes: readonly string[], layout: Layout = 'bshd'): string {
  const [b, s, h, d] = axes;
  const ordered = axes.length === 4 ? shapeOf({ b, s, h, d }, layout) : sharedShapeOf({ b, s, d: h }, layout);
  return `[${ordered.join(', ')}]`;
}

export function packedTexts(cacheFormat: CacheFormat): [string, string] {
  return cacheFormat === 'float16' ? ['/2', ' for packed float16'] : ['', ''];
}

export function checkFloat32(fn: string, name: string, { dtype }: Described): void {
  if (dtype !== 'float32') fail(fn, `${name} must be float32, got ${dtype}`);
}

/** A cache is known by its label; both of its tensors have the same. */
export function checkCacheFormat(fn: string, cKv: Described, kRope: Described): CacheFormat {
  const packed = cacheDtype('float16');
  if (cKv.dtype === packed && kRope.dtype === packed) return 'float16';
  if (cKv.dtype === packed || kRope.dtype === packed) {
    fail(
      fn,
      `cKv and kRope must both be float32 or both int32 (packed float16), got ${cKv.dtype} and ${kRope.dtype}`,
    );
  }
  checkFloat32(fn, 'cKv', cKv);
  checkFloat32(fn, 'kRope', kRope);
  return 'float32';
}

export function checkRange(fn: string, name: string, value: number, least: number, most: number): void {
  if (value < least || value > most) fail(fn, `${name} must be from ${least} to ${most}, got ${value}`);
}

export function checkScale(fn: string, softmaxScale: number): number {
  if (!Number.isFinite(softmaxScale)) {
    fail(fn, `softmaxScale must be a finite number, got ${String(softmaxScale)}`);
  }
  return softmaxScale;
}

export function checkLengths(
  fn: string,
  name: string,
  lengths: Lengths | undefined,
  b: number,
  limitName: string,
  limit: number,
): boolean {
  if (lengths === undefined) return false;
  if (isNumbers(lengths)) {
    const isLength = (length: number): boolean => Number.isInteger(length) && length >= 0 && length <= limit;
    if (lengths.length !== b || !lengths.every(isLength)) {
      fail(fn, `${name} must be b=${b} integers from 0 to ${limitName}=${limit}, got ${shapeText(lengths)}`);
    }
    return true;
  }
  if (lengths.isDisposed) fail(fn, `${name} is disposed`);
  if (lengths.dtype !== 'int32' || lengths.shape.length !== 1 || lengths.shape[0] !== b) {
    fail(
      fn,
      `${name} must be int32 [b=${b}] or a number[], got ${lengths.dtype} ${shapeText(lengths.shape)}`,
    );
  }
  return true;
}

export function isNumbers(lengths: Lengths): lengths is readonly number[] {
  return Array.isArray(lengths);
}
