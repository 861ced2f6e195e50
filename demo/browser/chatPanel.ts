/** The prompt, the text as it comes, and what it cost. */
import type { GenerateReport } from '../../src/models.js';
import { button, continuation, element, input, make, setFigure, setText } from './elements.js';
import { bytesText, countText, rateText, secondsText } from './formats.js';
import type { Activity } from './messages.js';
import type { DemoState, Panel, Send } from './state.js';

/** While these run, a prompt may be sent: it has its turn between two steps. */
const mayAsk: Activity[] = ['idle', 'training', 'sampling'];

const endings: Record<GenerateReport['stopped'], string> = {
  running: 'interrupted',
  length: 'at full length',
  'end token': 'ended by the model',
  signal: 'stopped',
};

export function createChatPanel(send: Send, state: DemoState): Panel {
  let text: HTMLElement | undefined;
  const form = element('ask', HTMLFormElement);
  const prompt = element('prompt', HTMLTextAreaElement);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (button('generate').disabled) return;
    text = addTurn(prompt.value);
    state.generation = undefined;
    button('generate').disabled = true;
    send({ kind: 'generate', request: { prompt: prompt.value, ...sampling() } });
  });
  prompt.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  button('stop').addEventListener('click', () => send({ kind: 'stop' }));
  return {
    show(report) {
      if (report.kind === 'piece') {
        text?.append(report.text);
        scrollDown();
        showFigures(report.report);
      }
      if (report.kind === 'generated') {
        if (text) endTurn(text, report.report);
        text = undefined;
      }
      button('generate').disabled = text !== undefined || !mayAsk.includes(state.activity);
      button('stop').disabled = state.activity !== 'generating';
    },
  };
}

function sampling(): { temperature: number; topK: number; maxNewTokens: number; seed: number } {
  const [temperature, topK, maxNewTokens] = ['temperature', 'top-k', 'max-tokens'].map(
    (id) => input(id).valueAsNumber,
  );
  return { temperature, topK, maxNewTokens, seed: Math.floor(Math.random() * 2 ** 31) };
}

function addTurn(prompt: string): HTMLElement {
  const chat = element('chat', HTMLElement);
  chat.querySelector('.empty')?.remove();
  chat.setAttribute('aria-busy', 'true'); // read out as a whole, not byte by byte
  const turn = make('div', 'turn writing');
  const text = continuation(prompt);
  turn.append(text);
  chat.append(turn);
  scrollDown();
  return text;
}

function endTurn(text: HTMLElement, report: GenerateReport | undefined): void {
  element('chat', HTMLElement).setAttribute('aria-busy', 'false');
  const turn = text.parentElement;
  turn?.classList.remove('writing');
  if (!report) {
    turn?.append(make('p', 'hint', 'not written: see the message above'));
    return;
  }
  const { newTokens, decodeSeconds, prefillSeconds, stopped } = report;
  const time = secondsText(prefillSeconds + decodeSeconds);
  turn?.append(make('p', 'hint', `${countText(newTokens)} bytes in ${time}, ${endings[stopped]}`));
  showFigures(report);
  scrollDown();
}

function showFigures(report: GenerateReport): void {
  const { promptTokens, newTokens, cacheBytes, perHeadCacheBytes } = report;
  setFigure(
    'prefill',
    rateText(report.prefillTokensPerSecond),
    `${countText(promptTokens)} tokens of the prompt`,
  );
  setFigure('decode', rateText(report.decodeTokensPerSecond), `${countText(newTokens)} new tokens`);
  setText('mha-bytes', bytesText(perHeadCacheBytes));
  setText('mla-bytes', bytesText(cacheBytes));
  element('mha-bar', HTMLElement).style.width = '100%';
  element('mla-bar', HTMLElement).style.width = `${(100 * cacheBytes) / perHeadCacheBytes}%`;
  const smaller = (perHeadCacheBytes / cacheBytes).toFixed(1);
  setText(
    'cache-ratio',
    `${smaller} times smaller: one latent and one rotary key a token, for all heads together.`,
  );
}

function scrollDown(): void {
  const chat = element('chat', HTMLElement);
  chat.scrollTop = chat.scrollHeight;
}
