import { add, mul, serialization, sigmoid, sub, tidy } from '@tensorflow/tfjs-core';
import type { Tensor } from '@tensorflow/tfjs-core';
import { layers } from '@tensorflow/tfjs-layers';
import type { LayerVariable, Shape } from '@tensorflow/tfjs-layers';
import { MLASwiGLU, MLASwiGLUBackward, hasRowKernel, runRowKernel } from '../core/rowKernels.js';
import { withGradient } from '../core/tensors.js';
import { checkPositive, first, firstShape, lastAxis, normal } from './layerTypes.js';
import type { LayerArgs } from './layerTypes.js';
import { linear, linears } from './linear.js';

export interface SwiGLUArgs extends LayerArgs {
  /** Columns of the gate and of the projection that it opens. */
  intermediateSize: number;
  /** Deviation of the initial weights. Default 0.02. */
  initializerRange?: number;
  /** Makes the initial weights repeatable. */
  seed?: number;
}

/**
 * down(silu(gate(x)) · up(x)), without biases: [..., d] → [..., d].
 *
 * Source: Shazeer, arXiv:2002.05202, eq. 6 (FFN_SwiGLU); the names are Hugging Face's DeepseekV3MLP's.
 * The weights are [out, in].
 */
export class SwiGLU extends layers.Layer {
  static get className(): string {
    return 'SwiGLU';
  }

  readonly intermediateSize: number;
  readonly initializerRange: number;
  readonly seed?: number;
  gateProj!: LayerVariable;
  upProj!: LayerVariable;
  downProj!: LayerVariable;

  constructor(args: SwiGLUArgs) {
    super(args);
    checkPositive('SwiGLU', { intermediateSize: args.intermediateSize });
    this.intermediateSize = args.intermediateSize;
    this.initializerRange = args.initializerRange ?? 0.02;
    this.seed = args.seed;
    this.supportsMasking = true;
  }

  override build(inputShape: Shape | Shape[]): void {
    const d = lastAxis('SwiGLU', inputShape);
    const weight = (name: string, shape: Shape, index: number): LayerVariable =>
      this.addWeight(name, shape, 'float32', normal(this.initializerRange, this.seed, index));
    this.gateProj = weight('gate_proj', [this.intermediateSize, d], 0);
    this.upProj = weight('up_proj', [this.intermediateSize, d], 1);
    this.downProj = weight('down_proj', [d, this.intermediateSize], 2);
    super.build(inputShape);
  }

  override computeOutputShape(inputShape: Shape | Shape[]): Shape {
    return firstShape(inputShape);
  }

  override call(inputs: Tensor | Tensor[]): Tensor {
    return tidy(() => {
      const x = first(inputs);
      const [gate, up] = linears(x, [{ weight: this.gateProj.read() }, { weight: this.upProj.read() }]);
      return linear(gated(gate, up), { weight: this.downProj.read(), shape: x.shape });
    });
  }

  override getConfig(): serialization.ConfigDict {
    const { intermediateSize, initializerRange, seed } = this;
    return {
      ...super.getConfig(),
      intermediateSize,
      initializerRange,
      ...(seed === undefined ? {} : { seed }),
    };
  }
}
serialization.registerClass(SwiGLU);

/** silu(gate) · up. */
function gated(gate: Tensor, up: Tensor): Tensor {
  return hasRowKernel(MLASwiGLU) ? fusedGated(gate, up) : composedGated(gate, up);
}

function fusedGated(gate: Tensor, up: Tensor): Tensor {
  return withGradient(
    [gate, up],
    (g, u) => ({ value: runRowKernel(MLASwiGLU, { gate: g, up: u }, {})[0], saved: [g, u] }),
    (dOut, [g, u]) => runRowKernel(MLASwiGLUBackward, { dOut, gate: g, up: u }, {}),
  );
}

/** The gradient keeps no third matrix, and sigmoid's own would make one of the number 1. */
function composedGated(gate: Tensor, up: Tensor): Tensor {
  return withGradient(
    [gate, up],
    (g, u) => ({ value: mul(mul(g, sigmoid(g)), u), saved: [g, u] }),
    (dy, [g, u]) => {
      const open = sigmoid(g);
      const dOpened = mul(dy, open);
      const dUp = mul(dOpened, g);
      // silu' = σ + silu · (1 − σ)
      return [mul(sub(add(dOpened, dUp), mul(dUp, open)), u), dUp];
    },
  );
}
