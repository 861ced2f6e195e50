/** Which of the installed packages brings TensorFlow. */
import { dirname } from 'node:path';
import { lookAt, setupCommand, tfjsNodeNames } from './tfjsNode.js';
import type { TfjsNode, TfjsNodeName } from './tfjsNode.js';

/** Those that are installed, as modules of `require` would find them. */
export function findTfjsNodes(require: NodeJS.Require): TfjsNode[] {
  return Object.values(tfjsNodeNames).flatMap((name) => {
    const folder = packageFolder(require, name);
    return folder === undefined ? [] : [lookAt(name, folder)];
  });
}

function packageFolder(require: NodeJS.Require, name: TfjsNodeName): string | undefined {
  try {
    return dirname(require.resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

export interface Choice {
  readonly chosen: TfjsNode;
  /** Why one that is there for a GPU does not use it; undefined too where there is none */
  readonly noGpu?: string;
}

/** The first that computes on a GPU; the last that is whole, where none does. */
export function chooseTfjsNode(installed: readonly TfjsNode[]): Choice {
  const whole = installed.filter(({ missing }) => missing === undefined);
  const chosen = whole.find(({ noGpu }) => noGpu === undefined) ?? whole.at(-1);
  if (!chosen) throw new Error(`tfjs-mla/node: ${absence(installed.at(0))}`);
  if (chosen.noGpu === undefined) return { chosen };
  const forGpu = installed.find(({ name, isCuda12 }) => name === tfjsNodeNames.gpu || isCuda12);
  return { chosen, noGpu: forGpu && `${forGpu.name}: ${forGpu.noGpu ?? lack(forGpu)}` };
}

function absence(installed: TfjsNode | undefined): string {
  const { cpu } = tfjsNodeNames;
  return installed
    ? `${installed.name} has ${lack(installed)}`
    : `${cpu} is not installed: run 'npm install --ignore-scripts ${cpu}@4.22.0' and '${setupCommand(cpu)}'`;
}

function lack({ name, missing }: TfjsNode): string {
  return `no ${missing}: run '${setupCommand(name)}', or its own install script`;
}
