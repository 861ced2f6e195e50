/** What the compiler says of each kernel: registers, spilling, stack, static shared memory. */

export interface KernelResources {
  readonly kernel: string;
  /** As in sm_80. */
  readonly architecture: string;
  readonly registers: number;
  readonly spilledBytes: number;
  readonly stackBytes: number;
  readonly sharedBytes: number;
}

/** Of the report of ptxas -v. */
export function reportOf(report: string): KernelResources[] {
  const parts = report.split(/Compiling entry function '/).slice(1);
  return parts.map((part) => {
    const [, kernel, architecture] = /^(\w+)' for '(\w+)'/.exec(part) ?? [];
    const number = (pattern: RegExp): number => Number(pattern.exec(part)?.[1] ?? 0);
    return {
      kernel,
      architecture,
      registers: number(/Used (\d+) registers/),
      spilledBytes: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
      stackBytes: number(/(\d+) bytes stack frame/),
      sharedBytes: number(/(\d+) bytes smem/),
    };
  });
}
