/** The command line, as a process: what it finds in a folder. */
import { join } from 'node:path';
import { computationText } from '../src/cli/binding.js';
import { imagesOf } from '../src/cli/nvidia.js';
import { binding, useApp, write } from './support/commandLine.js';
import { expectEqual, expectTrue } from './support/expect.js';

describe('tfjs-mla doctor', () => {
  const app = useApp();

  it('prints its lines in an empty folder, and what to do', () => {
    const lines = app.doctorLines();
    const first = `ok  Node ${process.versions.node} on ${process.platform} ${process.arch}`;
    expectEqual(lines[0], first);
    expectEqual(
      lines.filter((line) => !/^(ok|no) {2}\S/.test(line)),
      [],
    );
    const install = 'npm install --ignore-scripts @tensorflow';
    for (const line of [
      `no  @tensorflow/tfjs-core: ${install}/tfjs-core@4.22.0`,
      `no  @tensorflow/tfjs-backend-webgpu: ${install}/tfjs-backend-webgpu@4.22.0`,
      'ok  WebAssembly SIMD',
      'no  Dawn (WebGPU in Node), package webgpu: npm install webgpu',
      `no  @tensorflow/tfjs-node: ${install}/tfjs-node@4.22.0`,
      `no  @tensorflow/tfjs-node-gpu: ${install}/tfjs-node-gpu@4.22.0`,
    ]) {
      expectTrue(lines.includes(line), `expected the line "${line}", got\n${lines.join('\n')}`);
    }
    for (const what of [
      'relaxed SIMD',
      'g++',
      'pip',
      'TensorFlow of python3',
      'NVIDIA driver',
      'tfjs-mla/node',
    ]) {
      expectEqual(lines.filter((line) => line.includes(what)).length, 1, `lines about ${what}`);
    }
  });

  it('tells a tfjs-node without libraries, one that runs, and one that does not', () => {
    app.imitateTfjsNode();
    const name = '@tensorflow/tfjs-node';
    const about = () => app.doctorLines().filter((line) => line.includes(name) && !line.includes('-gpu'));
    const mend = 'npx tfjs-mla setup-tensorflow';
    expectEqual(about(), [
      `ok  ${name} 4.22.0`,
      `no  ${name}: libtensorflow: ${mend}`,
      `no  ${name}: binding: ${mend}`,
      `no  tfjs-mla/node: ${name} has no libtensorflow: run '${mend}', or its own install script`,
    ]);
    write(join(app.tfjsNode, 'deps/lib/libtensorflow.so.2.9.1'), '');
    write(join(app.tfjsNode, binding), '2.9.1');
    const whole = [`ok  ${name} 4.22.0`, `ok  ${name}: libtensorflow 2.9.1`, `ok  ${name}: binding`];
    const door = `ok  tfjs-mla/node loads ${name} and computes on the CPU (its TensorFlow is built for CPUs)`;
    expectEqual(about(), [
      ...whole,
      `ok  ${name} computes with TensorFlow 2.9.1 on the CPU, without our ops`,
      door,
    ]);
    write(join(app.tfjsNode, 'index.js'), 'process.abort();');
    expectEqual(about(), [...whole, `no  ${name} computes (SIGABRT): ${mend}`, door]);
  });

  it('tells the GPUs, and which of them our kernels run on', () => {
    write(
      join(app.folder, 'tools/nvidia-smi'),
      `#!/bin/sh\ntest "$1" = --query-gpu=name,compute_cap && printf 'NVIDIA H200, 9.0\\nTesla T4, 7.5\\n'`,
      0o755,
    );
    const mend = 'our kernels need 8.0; CUDA_VISIBLE_DEVICES=-1 computes on the CPU';
    expectEqual(
      app.doctorLines().filter((line) => line.includes('  GPU ')),
      ['ok  GPU NVIDIA H200, compute capability 9.0', `no  GPU Tesla T4, compute capability 7.5: ${mend}`],
    );
  });

  it('knows which images of our kernels a driver takes', () => {
    const drivers = ['580.159.03', '579.9', '525.60.13', '470.57.02'];
    expectEqual(drivers.map(imagesOf), [13, 12, 12, undefined]);
  });

  it('says what multiplies matrices on a GPU', () => {
    const cuda = { device: 'NVIDIA H200', capability: 90, multiprocessors: 132, driver: 13000, images: 13 };
    const computed = { tensorflow: '2.21.0', gpu: true, instructions: 'avx2', cuda };
    const text =
      'computes with TensorFlow 2.21.0 on the NVIDIA H200 (compute capability 9.0), our ops with their CUDA 13 images, linear maps by';
    const noCublas = 'cuBLAS: libcublas.so is not on this machine';
    expectEqual(computationText(computed), `${text} cuBLAS`);
    expectEqual(
      computationText({ ...computed, cuda: { ...cuda, noCublas } }),
      `${text} TensorFlow's MatMul (${noCublas})`,
    );
  });

  it('says what a tfjs-node-gpu lacks that has a TensorFlow for CUDA', () => {
    app.tfjsNode += '-gpu';
    app.imitateTfjsNode();
    write(join(app.tfjsNode, 'deps/lib/libtensorflow_framework.so.2'), '');
    write(join(app.tfjsNode, binding), '2.21.0');
    const mend = 'npx tfjs-mla setup-tensorflow --gpu';
    const line = `no  @tensorflow/tfjs-node-gpu: libcudart.so.12: ${mend}`;
    expectTrue(app.doctorLines().includes(line), app.doctorLines().join('\n'));
  });

  it('does not stumble over a broken package', () => {
    write(join(app.tfjsNode, 'package.json'), 'no JSON');
    expectTrue(
      app.doctorLines().some((line) => line.includes('is not valid JSON')),
      app.doctorLines().join('\n'),
    );
  });
});
