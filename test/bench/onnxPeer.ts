/**
 * ONNX Runtime's WebGPU execution provider on the shape of one of our lines; peers.ts asks, and reads the JSON.
 * Inputs and outputs stay on the GPU. The package has 290 MB, of which a script of its own may fetch more: it is no
 * dependency of ours, and imported only where it has been installed.
 */
import { anyClock, SteadyClock } from './clock.js';
import type { Clock } from './clock.js';
import { measureStreams } from './figure.js';
import type { Stream } from './figure.js';
import { normals } from './inputs.js';
import { contributed, elementTypes, encodeModel } from './onnxModel.js';
import type { ElementType, OnnxGraph, OnnxTensor } from './onnxModel.js';
import type { PeerAnswer, PeerRequest, PeerResult } from './peers.js';
import { scoresTooLarge } from './shapes.js';
import type { AttentionShape } from './shapes.js';

interface OrtTensor {
  dispose(): void;
}
type OrtTensors = Record<string, OrtTensor>;

interface OrtSession {
  run(feeds: OrtTensors): Promise<OrtTensors>;
  release(): Promise<void>;
}

/** As much of onnxruntime-node as is used here. */
interface Ort {
  InferenceSession: { create(model: Uint8Array, options: object): Promise<OrtSession> };
  Tensor: new (type: ElementType, values: Float32Array | Int32Array, shape: number[]) => OrtTensor;
  env: { versions: { node: string } };
}

const packageName: string = 'onnxruntime-node'; // not a literal in import(): it need not be there
const probeSize = 1024;
const heatMs = 100;
const absent = 'not installed: npm install --no-save onnxruntime-node';

console.log(JSON.stringify(await answer(JSON.parse(process.argv[2]) as PeerRequest)));
process.exit(0);

async function answer(request: PeerRequest): Promise<PeerAnswer | { absent: string }> {
  let ort: Ort;
  try {
    ort = (await import(packageName)) as Ort;
  } catch (error) {
    const isAbsent = (error as { code?: unknown }).code === 'ERR_MODULE_NOT_FOUND';
    return { absent: isAbsent ? absent : (error as Error).message };
  }
  const versions = { 'onnxruntime-node': ort.env.versions.node };
  const peer = 'ONNX Runtime';
  if (request.op !== 'attention')
    return { versions, results: { decode: [{ peer, skipped: 'it has no absorbed decode' }] } };
  const clock = new SteadyClock(request.isSoftware ? anyClock : await productClock(ort));
  const forward = [
    await attention(ort, request, 'float32', clock),
    await attention(ort, request, 'float16', clock),
  ];
  const both = [{ peer, skipped: 'it has no backward pass' }];
  return { versions, results: { forward, 'forward+backward': both } };
}

async function attention(
  ort: Ort,
  shape: AttentionShape,
  type: ElementType,
  clock: SteadyClock,
): Promise<PeerResult> {
  const peer = `ONNX Runtime ${type}`;
  const skipped = scoresTooLarge(shape, type === 'float16' ? 2 : 4);
  if (skipped !== undefined) return { peer, skipped };
  try {
    const graph = attentionGraph(shape, type);
    const session = await openSession(ort, graph);
    const inputs = await residentInputs(ort, graph.inputs);
    const figure = await measureStreams(await streamOf(ort, session, inputs, graph.outputs[0]), clock);
    for (const input of Object.values(inputs)) input.dispose();
    await session.release();
    return { peer, ...figure };
  } catch (error) {
    return { peer, skipped: (error as Error).message.split('\n')[0] };
  }
}

/** Causal attention as ONNX Runtime's own operator, whose value heads may have another size than the others. */
function attentionGraph({ b, h, s, dqk, dv }: AttentionShape, type: ElementType): OnnxGraph {
  const rows = (name: string, d: number): OnnxTensor => ({ name, type, shape: [b, s, h * d] });
  return {
    inputs: [rows('q', dqk), rows('k', dqk), rows('v', dv)],
    outputs: [rows('out', dv)],
    nodes: [
      {
        operator: 'MultiHeadAttention',
        domain: contributed,
        inputs: ['q', 'k', 'v'],
        outputs: ['out'],
        integers: { num_heads: h, unidirectional: 1 },
        floats: { scale: 1 / Math.sqrt(dqk) },
      },
    ],
  };
}

function openSession(
  ort: Ort,
  graph: OnnxGraph,
  output: 'gpu-buffer' | 'cpu' = 'gpu-buffer',
): Promise<OrtSession> {
  return ort.InferenceSession.create(encodeModel(graph), {
    executionProviders: ['webgpu'],
    preferredOutputLocation: output,
    logSeverityLevel: 3,
  });
}

/** Random tensors in GPU memory: the outputs of a graph that casts what is fed from here. */
async function residentInputs(ort: Ort, tensors: OnnxTensor[]): Promise<OrtTensors> {
  const fed = (name: string): string => `${name}_fed`;
  const session = await openSession(ort, {
    inputs: tensors.map(({ name, shape }) => ({ name: fed(name), type: 'float32', shape })),
    outputs: tensors,
    nodes: tensors.map(({ name, type }) => ({
      operator: 'Cast',
      inputs: [fed(name)],
      outputs: [name],
      integers: { to: elementTypes[type] },
    })),
  });
  const feeds = tensors.map(({ name, shape }) => {
    const values = normals(shape.reduce((product, size) => product * size));
    return [fed(name), new ort.Tensor('float32', values, shape)] as const;
  });
  return session.run(Object.fromEntries(feeds));
}

/** A run with an output on the GPU returns when it is queued: reading the last one's first row waits for them all. */
async function streamOf(
  ort: Ort,
  session: OrtSession,
  inputs: OrtTensors,
  output: OnnxTensor,
): Promise<Stream> {
  const { name, type, shape } = output;
  const reader = await openSession(
    ort,
    {
      inputs: [output, { name: 'row', type: 'int32', shape: [1] }],
      outputs: [{ name: 'first', type, shape: shape.with(-2, 1) }],
      nodes: [
        {
          operator: 'Gather',
          inputs: [name, 'row'],
          outputs: ['first'],
          integers: { axis: shape.length - 2 },
        },
      ],
    },
    'cpu',
  );
  const row = new ort.Tensor('int32', Int32Array.of(0), [1]);
  return async (calls) => {
    const start = performance.now();
    let last: OrtTensor | undefined;
    for (let n = 0; n < calls; n++) {
      last?.dispose();
      last = (await session.run(inputs))[name];
    }
    if (last) await reader.run({ [name]: last, row });
    last?.dispose();
    return (performance.now() - start) / calls;
  };
}

/** A matrix product of ONNX Runtime's own. */
async function productClock(ort: Ort): Promise<Clock> {
  const matrix = (name: string): OnnxTensor => ({ name, type: 'float32', shape: [probeSize, probeSize] });
  const inputs = [matrix('a'), matrix('b')];
  const output = matrix('product');
  const nodes = [{ operator: 'MatMul', inputs: ['a', 'b'], outputs: ['product'] }];
  const session = await openSession(ort, { inputs, outputs: [output], nodes });
  const stream = await streamOf(ort, session, await residentInputs(ort, inputs), output);
  return {
    async heat() {
      for (const start = performance.now(); performance.now() - start < heatMs;) await stream(50);
    },
    async probe() {
      const times: number[] = [];
      for (let n = 0; n < 5; n++) times.push(await stream(20));
      return Math.min(...times);
    },
  };
}
