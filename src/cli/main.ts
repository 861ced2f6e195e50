#!/usr/bin/env node
/** The command line of the package: tfjs-mla COMMAND [flags]. */
import { parseArgs } from 'node:util';
import { doctor } from './doctor.js';
import { defaultVersions } from './libraries.js';
import { setupTensorflow } from './setupTensorflow.js';

const general = `usage: tfjs-mla COMMAND [flags]

  setup-tensorflow   puts a libtensorflow of today behind the installed @tensorflow/tfjs-node
  doctor             says what runs here, and what to do about the rest

tfjs-mla COMMAND --help tells more.
`;

const help = {
  'setup-tensorflow': `usage: tfjs-mla setup-tensorflow [--gpu] [--version X] [--wheel FILE] [--undo]

Puts a libtensorflow of today behind the @tensorflow/tfjs-node that is installed in this folder, builds its binding,
multiplies two matrices and runs an op of ours with it. The libraries come from the first of: FILE, what an earlier run
has put there, the packages of python3, pip download. All stays inside the folder of the package; a run that was
interrupted can be run again.

  --gpu          @tensorflow/tfjs-node-gpu instead, and the CUDA 12 libraries (linux x64)
  --version X    of TensorFlow; what pip downloads is ${defaultVersions.cpu}, with --gpu ${defaultVersions.gpu}
  --wheel FILE   a wheel of tensorflow or tensorflow-cpu for linux x64 on this disk; with --gpu also, the flag
                 repeated, those of CUDA that pip cannot download here
  --undo         removes what this command has put there
`,
  doctor: `usage: tfjs-mla doctor

Says what runs in this folder: "ok", or "no" with the command that mends it. Changes nothing.
`,
};

async function main([command, ...args]: string[]): Promise<void> {
  if (command === undefined || command === '--help' || command === '-h') {
    process.stdout.write(general);
  } else if (command === 'setup-tensorflow') {
    const { values } = parseArgs({
      args,
      options: {
        gpu: { type: 'boolean', default: false },
        version: { type: 'string' },
        wheel: { type: 'string', multiple: true, default: [] },
        undo: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h' },
      },
    });
    if (values.help) process.stdout.write(help[command]);
    else await setupTensorflow({ ...values, wheels: values.wheel });
  } else if (command === 'doctor') {
    const { values } = parseArgs({ args, options: { help: { type: 'boolean', short: 'h' } } });
    if (values.help) process.stdout.write(help[command]);
    else doctor();
  } else {
    throw new Error(`expected setup-tensorflow or doctor, got ${command}; see npx tfjs-mla --help`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`tfjs-mla: ${(error as Error).message}\n`);
  process.exitCode = 1;
}
