/** The command line, as a process: TensorFlow behind tfjs-node, out of imitated wheels. */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import {
  afterSetup,
  binding,
  cudaFolder,
  cudaParts,
  everything,
  hasPip,
  links,
  placed,
  useApp,
  wheelMetadata,
  wheelName,
  write,
  writeZip,
} from './support/commandLine.js';
import { expectEqual, expectTrue } from './support/expect.js';

describe('tfjs-mla setup-tensorflow', function () {
  const app = useApp();

  before(function () {
    if (process.platform !== 'linux' || process.arch !== 'x64') this.skip();
  });

  it('needs tfjs-node, and names the command that installs it', () => {
    app.expectFailure(
      ['setup-tensorflow'],
      'tfjs-mla: setup-tensorflow: expected @tensorflow/tfjs-node to be installed in this folder, got none; ' +
        'npm install --ignore-scripts @tensorflow/tfjs-node@4.22.0',
    );
    app.expectFailure(['setup-tensorflow', '--gpu'], 'tfjs-node-gpu@4.22.0');
  });

  it('refuses what is no wheel of TensorFlow, and writes nothing', () => {
    app.imitateTfjsNode();
    const before = everything(app.tfjsNode);
    const file = join(app.folder, 'a.whl');
    const refuse = (message: string, ...flags: string[]) =>
      app.expectFailure(['setup-tensorflow', '--wheel', file, ...flags], message);
    refuse(`expected a wheel, got ${file}, which does not exist`);
    write(file, 'This is a text, and a text is no zip file.');
    refuse('which is no zip file');
    writeZip(file, { 'a.txt': 'a' });
    refuse('a zip file without a .dist-info folder');
    writeZip(file, {
      'tensorflow_cpu-2.9.1.dist-info/METADATA': '',
      [placed['deps/lib/libtensorflow_framework.so.2']]: '',
    });
    refuse('got tensorflow_cpu-2.9.1 without libtensorflow_cc.so.2');
    app.writeWheel('2.18.1', file);
    refuse('expected version 2.21.0, got a wheel of tensorflow_cpu-2.18.1', '--version', '2.21.0');
    expectEqual(everything(app.tfjsNode), before);
  });

  it('writes nothing of a wheel that is damaged', () => {
    app.imitateTfjsNode();
    const before = everything(app.tfjsNode);
    const wheel = app.writeWheel('2.18.1');
    const bytes = readFileSync(wheel);
    bytes[bytes.indexOf('2.18.1 tensorflow/libtensorflow_framework')] = 0x33;
    writeFileSync(wheel, bytes);
    const message = 'expected tensorflow/libtensorflow_framework.so.2 whole, got other bytes';
    app.expectFailure(['setup-tensorflow', '--wheel', wheel], message);
    expectEqual(everything(app.tfjsNode), before);
  });

  it('unpacks a wheel, once, and --undo removes just that', () => {
    app.imitateTfjsNode();
    write(join(app.tfjsNode, 'deps/lib/mine'), 'mine');
    const before = everything(app.tfjsNode);
    const wheel = app.writeWheel('2.18.1');

    const first = app.setUp('--wheel', wheel);
    expectEqual(
      first.stdout,
      '@tensorflow/tfjs-node computes with TensorFlow 2.18.1 on the CPU, without our ops\n',
    );
    expectTrue(first.stderr.includes('unpacking 6 files'), first.stderr);
    expectEqual(app.added(before), afterSetup);
    for (const [place, name] of Object.entries(placed)) expectEqual(app.content(place), `2.18.1 ${name}`);
    for (const [link, target] of Object.entries(links))
      expectEqual(readlinkSync(join(app.tfjsNode, link)), target);
    expectEqual(app.builds(), ['install --build-from-source']);

    const library = join(app.tfjsNode, 'deps/lib/libtensorflow_cc.so.2');
    const written = statSync(library).mtimeMs;
    for (const flags of [['--wheel', wheel], []]) {
      const { stderr } = app.setUp(...flags);
      expectTrue(stderr.includes('tensorflow_cpu-2.18.1 is there already'), stderr);
      expectTrue(stderr.includes('the binding is there already'), stderr);
    }
    expectEqual(statSync(library).mtimeMs, written);
    expectEqual(app.builds().length, 1);

    expectEqual(app.setUp('--undo').stdout, 'removed binding, tensorflow\n');
    expectEqual(everything(app.tfjsNode), before);
    expectEqual(app.setUp('--undo').stdout, 'nothing to remove\n');
  });

  it('changes the version, and gives back at the end what it found', () => {
    app.imitateTfjsNode();
    write(join(app.tfjsNode, 'deps/lib/libtensorflow_framework.so.2'), 'stock');
    write(join(app.tfjsNode, binding), 'stock');
    write(join(app.tfjsNode, 'build/Makefile'), 'stock');
    const before = everything(app.tfjsNode);
    app.setUp('--wheel', app.writeWheel('2.18.1'));
    const { stdout } = app.setUp('--wheel', app.writeWheel('2.21.0'));
    expectTrue(stdout.includes('TensorFlow 2.21.0'), stdout);
    expectEqual(app.builds().length, 2);
    app.setUp('--undo');
    expectEqual(everything(app.tfjsNode), before);
    for (const file of ['deps/lib/libtensorflow_framework.so.2', binding, 'build/Makefile']) {
      expectEqual(app.content(file), 'stock');
    }
  });

  it('goes on after an interruption, and --undo knows what that left', () => {
    app.imitateTfjsNode();
    const before = everything(app.tfjsNode);
    const wheel = app.writeWheel('2.18.1');
    app.setUp('--wheel', wheel);
    const record = join(app.tfjsNode, 'deps/tfjs-mla.json');
    const interrupt = () => {
      writeFileSync(record, app.content('deps/tfjs-mla.json').replace('"done": true', '"done": false'));
      rmSync(join(app.tfjsNode, 'deps/lib/libtensorflow_cc.so.2'));
      write(join(app.tfjsNode, 'deps/lib/libtensorflow_cc.so.2.part'), 'half');
    };
    interrupt();
    const { stderr } = app.setUp('--wheel', wheel);
    expectTrue(stderr.includes('unpacking 6 files'), stderr);
    expectEqual(app.added(before), afterSetup);
    interrupt();
    app.setUp('--undo');
    expectEqual(everything(app.tfjsNode), before);
  });

  it('says so where the compiler is absent or fails, and leaves no binding', () => {
    app.imitateTfjsNode();
    const wheel = app.writeWheel('2.18.1');
    const before = everything(app.tfjsNode);
    rmSync(join(app.folder, 'tools/g++'));
    const only = join(app.folder, 'only');
    mkdirSync(only);
    symlinkSync(process.execPath, join(only, 'node'));
    const poor = app.run(['setup-tensorflow', '--wheel', wheel], { PATH: only });
    expectTrue(
      poor.stderr.includes('to build the binding, got no g++, no make, no python3; install'),
      poor.stderr,
    );

    write(join(app.folder, 'tools/g++'), '#!/bin/sh\n', 0o755);
    write(join(app.folder, 'broken'), '');
    const failed = app.expectFailure(
      ['setup-tensorflow', '--wheel', wheel],
      'expected node-pre-gyp to build',
    );
    expectTrue(failed.includes('a compiler error'), failed);
    expectEqual(
      app.added(before),
      afterSetup.filter((file) => file !== binding),
    );
  });

  it('says so where the product is wrong', () => {
    app.imitateTfjsNode();
    write(join(app.tfjsNode, 'deps/lib/wrong'), '');
    const wheel = app.writeWheel('2.18.1');
    app.expectFailure(
      ['setup-tensorflow', '--wheel', wheel],
      'got exit code 1, Error: a wrong product: 0,0,0,0',
    );
  });

  it('takes the wheel from where pip is configured to look', function () {
    if (!hasPip()) this.skip();
    app.imitateTfjsNode();
    const before = everything(app.tfjsNode);
    const shop = join(app.folder, 'shop');
    for (const version of ['2.18.1', '2.21.0']) {
      app.writeWheel(version, join(shop, wheelName('tensorflow_cpu', version)));
    }
    const environment = { PIP_NO_INDEX: '1', PIP_FIND_LINKS: shop, PYTHONPATH: app.withoutTensorflow() };
    const { stdout, stderr, status } = app.run(['setup-tensorflow'], environment);
    expectEqual(status, 0, stderr);
    expectEqual(
      stdout,
      '@tensorflow/tfjs-node computes with TensorFlow 2.18.1 on the CPU, without our ops\n',
    );
    expectEqual(app.added(before), afterSetup);
    expectTrue(
      app.run(['setup-tensorflow', '--version', '2.21.0'], environment).stdout.includes('2.21.0'),
      'version',
    );
    const absent = app.run(['setup-tensorflow', '--version', '2.20.0'], environment);
    expectTrue(absent.stderr.includes('expected pip to download tensorflow-cpu==2.20.0'), absent.stderr);
  });

  it('puts the libraries of CUDA into one folder, with --gpu', function () {
    if (!hasPip()) this.skip();
    app.tfjsNode += '-gpu';
    app.imitateTfjsNode();
    const shop = join(app.folder, 'shop');
    const before = everything(app.tfjsNode);
    app.writeWheel('2.21.0', join(shop, wheelName('tensorflow', '2.21.0')), 'tensorflow');
    for (const part of cudaParts) app.writeCudaWheel(part, shop);
    const environment = { PIP_NO_INDEX: '1', PIP_FIND_LINKS: shop, PYTHONPATH: app.withoutTensorflow() };
    const { status, stdout, stderr } = app.run(['setup-tensorflow', '--gpu'], environment);
    expectEqual(status, 0, stderr);
    expectTrue(stdout.startsWith('@tensorflow/tfjs-node-gpu computes with TensorFlow 2.21.0'), stdout);
    expectTrue(stderr.includes('\nnot on a GPU: '), stderr);
    expectEqual(app.added(before), app.withCuda());
    app.setUp('--gpu', '--undo');
    expectEqual(everything(app.tfjsNode), before);
  });

  it('takes those of CUDA from wheels too, and from what python3 has', () => {
    app.tfjsNode += '-gpu';
    app.imitateTfjsNode();
    const before = everything(app.tfjsNode);
    const site = join(app.folder, 'site');
    const [runtime, ...others] = cudaParts;
    const wheels = others.map((part) => app.writeCudaWheel(part, join(app.folder, 'shop')));
    wheels.push(app.writeWheel('2.21.0', join(app.folder, wheelName('tensorflow', '2.21.0')), 'tensorflow'));
    const library = `nvidia/${runtime}/lib/lib${runtime}.so.12`;
    write(join(site, library), runtime);
    const metadata = wheelMetadata(`nvidia_${runtime}_cu12`, '12.9');
    for (const [name, text] of Object.entries(metadata)) write(join(site, name), text);
    write(join(site, `nvidia_${runtime}_cu12-12.9.dist-info/RECORD`), `${library},,\n`);
    const flags = wheels.flatMap((file) => ['--wheel', file]);
    const environment = { PYTHONPATH: site, PIP_NO_INDEX: '1' };
    const { status, stderr } = app.run(['setup-tensorflow', '--gpu', ...flags], environment);
    expectEqual(status, 0, stderr);
    expectEqual(app.added(before), app.withCuda());
    expectEqual(readlinkSync(join(app.tfjsNode, `${cudaFolder}/lib${runtime}.so.12`)), join(site, library));
    app.setUp('--gpu', '--undo');
    expectEqual(everything(app.tfjsNode), before);
    expectTrue(existsSync(join(site, library)), 'the library of python3 is gone');
  });

  it('links the TensorFlow of python3 rather than download one', function () {
    if (!hasPip()) this.skip();
    app.imitateTfjsNode();
    const before = everything(app.tfjsNode);
    const site = join(app.folder, 'site');
    write(join(site, 'tensorflow/__init__.py'), 'raise Exception("imported")');
    for (const name of Object.values(placed)) write(join(site, name), `2.19.0 ${name}`);
    for (const [name, text] of Object.entries(wheelMetadata('tensorflow_cpu', '2.19.0'))) {
      write(join(site, name), text);
    }
    const environment = { PYTHONPATH: site, PIP_NO_INDEX: '1' };
    const other = app.run(['setup-tensorflow', '--version', '2.18.1'], environment);
    expectTrue(other.stderr.includes('2.19.0 of python3 is not used: expected version 2.18.1'), other.stderr);
    const { stdout, stderr } = app.run(['setup-tensorflow'], environment);
    expectTrue(stdout.includes('TensorFlow 2.19.0'), stderr);
    expectEqual(app.added(before), afterSetup);
    for (const [place, name] of Object.entries(placed)) {
      expectEqual(readlinkSync(join(app.tfjsNode, place)), join(site, name));
    }
    app.setUp('--undo');
    expectEqual(everything(app.tfjsNode), before);
    expectTrue(
      existsSync(join(site, placed['deps/lib/libtensorflow_cc.so.2'])),
      'the library of python3 is gone',
    );
  });
});
