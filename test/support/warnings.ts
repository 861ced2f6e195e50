/** What `run` warns of, line by line, in place of the console. */
export function capturingWarnings(run: () => void): string[] {
  const { warn } = console;
  const lines: string[] = [];
  console.warn = (line: string) => lines.push(line);
  try {
    run();
  } finally {
    console.warn = warn;
  }
  return lines;
}
