/** WebGPU reports a bad shader or a bad dispatch as an event and computes zeros: the tests collect those events. */

const watched = new Set<GPUDevice>();
const errors: string[] = [];

export function watchGpuErrors(device: GPUDevice): void {
  if (watched.has(device)) return;
  watched.add(device);
  device.addEventListener('uncapturederror', (event) => {
    event.preventDefault(); // else the browser prints it, and Dawn too
    errors.push((event as GPUUncapturedErrorEvent).error.message);
  });
  void device.lost.then(({ reason, message }) => {
    watched.delete(device);
    if (reason !== 'destroyed') errors.push(`device lost: ${message}`);
  });
}

/** Every error since the last call, once the watched devices have run what was submitted to them. */
export async function takeGpuErrors(): Promise<string[]> {
  await Promise.all([...watched].map((device) => device.queue.onSubmittedWorkDone()));
  return errors.splice(0);
}
