/** MLADelta, B1 of gradients/README.md: delta = dOut·out − dLse. A unit of work is a head of a batch entry. */
import { Problem, Tensor, rowsOf } from './problem';
import { addProduct, splat, sumOfLanes } from './simd';

export function deltaUnits(problem: Problem): i32 {
  return problem.batch * problem.hq;
}

export function deltaOfHead(problem: Problem, unit: i32): void {
  const out = rowsOf(problem, Tensor.out);
  const dOut = rowsOf(problem, Tensor.dOut);
  for (let i = 0; i < problem.sq; i++) {
    const x = out.at(unit / problem.hq, i, unit % problem.hq);
    const y = dOut.at(unit / problem.hq, i, unit % problem.hq);
    const stat = ((unit * problem.sq + i) as usize) << 2;
    const dLse: f32 = problem.dLse ? load<f32>(problem.dLse + stat) : 0;
    store<f32>(problem.delta + stat, dot(x, y, problem.dv) - dLse);
  }
}

function dot(x: usize, y: usize, columns: i32): f32 {
  let sums = splat(0);
  let c = 0;
  for (; c + 3 < columns; c += 4) {
    const at = (c as usize) << 2;
    sums = addProduct(sums, v128.load(x + at), v128.load(y + at));
  }
  let sum = sumOfLanes(sums);
  for (; c < columns; c++) {
    const at = (c as usize) << 2;
    sum += load<f32>(x + at) * load<f32>(y + at);
  }
  return sum;
}
