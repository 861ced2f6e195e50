import { LineChart } from 'echarts/charts';
import { GridComponent, LegendComponent, MarkLineComponent, TitleComponent } from 'echarts/components';
import { init, use } from 'echarts/core';
import type { EChartsCoreOption } from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';

use([LineChart, GridComponent, LegendComponent, MarkLineComponent, TitleComponent, SVGRenderer]);

export interface LossChartData {
  title: string;
  /** Natural logarithm, one per step. */
  losses: readonly number[];
  /** Bits per byte that byte frequencies alone give. */
  unigramEntropy: number;
  /** Bits per byte on the text kept aside, where measured. */
  heldOut?: readonly { step: number; bitsPerByte: number }[];
}

/** What echarts draws: bits per byte over steps, in Node and in the page. */
export function lossChartOption({
  title,
  losses,
  unigramEntropy,
  heldOut = [],
}: LossChartData): EChartsCoreOption {
  const bits = losses.map((loss) => loss / Math.LN2);
  return {
    animation: false,
    backgroundColor: '#ffffff',
    title: { text: title, left: 'center', textStyle: { fontSize: 14 } },
    legend: { bottom: 0, itemGap: 40 },
    grid: { left: 60, right: 30, top: 50, bottom: 70 },
    xAxis: { type: 'value', name: 'step', nameLocation: 'middle', nameGap: 25, min: 0 },
    yAxis: { type: 'value', name: 'bits per byte', scale: true },
    series: [
      {
        name: 'training batch',
        type: 'line',
        showSymbol: false,
        lineStyle: { width: 1, opacity: 0.35 },
        color: '#3b6fb6',
        data: points(bits),
      },
      {
        name: 'training, smoothed',
        type: 'line',
        showSymbol: false,
        lineStyle: { width: 2 },
        color: '#1d3f72',
        data: points(smoothed(bits)),
        markLine: {
          symbol: 'none',
          silent: true,
          lineStyle: { type: 'dashed', color: '#888888' },
          label: { formatter: 'byte frequencies alone', position: 'insideEndTop' },
          data: [{ yAxis: unigramEntropy }],
        },
      },
      {
        name: 'held-out text',
        type: 'line',
        symbolSize: 7,
        color: '#c2571a',
        data: heldOut.map(({ step, bitsPerByte }) => [step, bitsPerByte]),
      },
    ],
  };
}

/** The chart as an SVG file's text; needs no page. */
export function lossChartSvg(data: LossChartData, width = 800, height = 450): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width, height });
  chart.setOption(lossChartOption(data));
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

function points(values: readonly number[]): [number, number][] {
  return values.map((value, i) => [i + 1, value]);
}

/** The mean of up to ten steps on either side. */
function smoothed(values: readonly number[]): number[] {
  const reach = 10;
  return values.map((_, i) => {
    // fewer on both sides near the ends, so that the curve does not lag
    const side = Math.min(reach, i, values.length - 1 - i);
    const window = values.slice(i - side, i + side + 1);
    return window.reduce((sum, value) => sum + value, 0) / window.length;
  });
}
