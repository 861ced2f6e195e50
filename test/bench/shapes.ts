import type { PresetName } from '../../demo/shared/presets.js';

export interface AttentionShape {
  b: number;
  h: number;
  s: number;
  dqk: number;
  dv: number;
}

export interface DecodeShape {
  b: number;
  h: number;
  s: number;
  r: number;
  rr: number;
}

export type ShapeSet = 'paper' | 'small' | 'medium' | 'long';

const attention = (b: number, h: number, s: number): AttentionShape => ({ b, h, s, dqk: 192, dv: 128 });
const decode = (b: number, h: number, s: number): DecodeShape => ({ b, h, s, r: 512, rr: 64 });

/** 'paper': TransformerEngine #2950's shapes; 'small': what plain JavaScript does in seconds; 'medium': what
 * SIMD does; 'long': where O(s²) is out of reach. */
export const attentionShapes: Record<ShapeSet, AttentionShape[]> = {
  paper: [
    attention(2, 8, 512),
    attention(1, 16, 1024),
    attention(1, 16, 2048),
    attention(1, 16, 4096),
    attention(1, 128, 4096),
  ],
  small: [attention(1, 4, 64), attention(1, 4, 256)],
  medium: [attention(1, 4, 256), attention(1, 8, 512), attention(1, 8, 1024)],
  long: [attention(1, 16, 32768)],
};

export const decodeShapes: Record<ShapeSet, DecodeShape[]> = {
  paper: [decode(1, 16, 2048), decode(1, 128, 4096), decode(8, 128, 4096), decode(1, 128, 32768)],
  small: [decode(1, 4, 128), decode(1, 16, 512)],
  medium: [decode(1, 16, 512), decode(1, 16, 2048)],
  long: [decode(1, 16, 32768)],
};

/** Lengths of the training step, and the preset whose tokens a step are kept at every length. */
export const trainingShapes: Record<ShapeSet, { preset: PresetName; lengths: number[] }> = {
  paper: { preset: 'large', lengths: [512, 2048, 8192] },
  small: { preset: 'tiny', lengths: [64, 256] },
  medium: { preset: 'small', lengths: [128, 512, 2048] },
  long: { preset: 'large', lengths: [32768] },
};

/** What a WebGPU binding holds on most GPUs, and several such tensors are alive at once. */
const mostScoresBytes = 2 ** 31;

/** Why a peer that keeps all scores cannot run: undefined where they fit. */
export function scoresTooLarge({ b, h, s }: AttentionShape, bytesPerScore: number): string | undefined {
  const bytes = bytesPerScore * b * h * s * s;
  return bytes > mostScoresBytes ? `its scores would take ${(bytes / 1e9).toFixed(1)} GB` : undefined;
}

export function nameOf(shape: AttentionShape | DecodeShape): string {
  const sizes = 'dqk' in shape ? `${shape.dqk}/${shape.dv}` : `${shape.r}+${shape.rr}`;
  return `B${shape.b} H${shape.h} S${shape.s} ${sizes}`;
}
