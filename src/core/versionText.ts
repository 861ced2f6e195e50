/** '9.0' for 90: CUDA writes its versions in tens. */
export function versionText(tens: number): string {
  return `${Math.floor(tens / 10)}.${tens % 10}`;
}
