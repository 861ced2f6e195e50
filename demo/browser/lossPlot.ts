/** The live chart of the loss. */
import { init } from 'echarts/core';
import type { EChartsCoreOption } from 'echarts/core';
import { lossChartOption } from '../shared/lossChart.js';
import { element } from './elements.js';
import type { DemoState } from './state.js';

/** Drawing thousands of points after each of many steps a second would take the processor from the training. */
const drawEveryMs = 400;

/** Below so many pixels the legend takes two lines. */
const narrow = 480;

/** To be called when there is something new to draw: it draws now, or soon, and never too often. */
export type LossPlot = (state: DemoState, totalSteps: number) => void;

export function createLossPlot(): LossPlot {
  const place = element('chart', HTMLElement);
  const chart = init(place, null, { renderer: 'svg' });
  let shown: Parameters<LossPlot> | undefined;
  let timer: number | undefined;
  let drawnAt = 0;
  const draw: LossPlot = (state, totalSteps) => {
    shown = [state, totalSteps];
    if (timer !== undefined) return;
    const wait = Math.max(0, drawnAt + drawEveryMs - performance.now());
    timer = window.setTimeout(() => {
      timer = undefined;
      drawnAt = performance.now();
      if (!shown) return;
      chart.setOption(optionOf(...shown, chart.getWidth() < narrow), { notMerge: true });
    }, wait);
  };
  new ResizeObserver(() => {
    chart.resize();
    if (shown) draw(...shown);
  }).observe(place);
  return draw;
}

/** The same chart as in Node, without the room for its title: the page has one. */
function optionOf(
  { losses, heldOut, run }: DemoState,
  totalSteps: number,
  isNarrow: boolean,
): EChartsCoreOption {
  const unigramEntropy = run?.unigramEntropy ?? 0;
  const option = lossChartOption({ title: '', losses, heldOut, unigramEntropy });
  // far enough down that the line to get below is in sight from the first step on
  const min = (values: { min: number }): number => Math.floor(Math.min(values.min, unigramEntropy));
  const grid = { left: 48, right: 16, top: 34, bottom: isNarrow ? 96 : 72 };
  const xAxis = { ...(option.xAxis as object), max: Math.max(losses.length, totalSteps) };
  const legend = {
    bottom: 0,
    ...(isNarrow ? { itemGap: 6, itemWidth: 16, textStyle: { fontSize: 11 } } : {}),
  };
  return { ...option, grid, legend, xAxis, yAxis: { ...(option.yAxis as object), min } };
}
