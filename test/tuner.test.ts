/** The tuner's memory: what is remembered, as JSON, and where. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as tuner from '../src/core/tuner.js';
import type { Finding, Subject } from '../src/core/tuner.js';
import { fileStorage } from '../src/device/tuningStorage.js';
import { expectEqual, expectThrows } from './support/expect.js';
import { capturingWarnings } from './support/warnings.js';

const subject: Subject = { device: 'a GPU', kernel: 'MLAAttention', bucket: 'small' };
const finding: Finding = { winner: 'fast', times: { fast: 1, slow: 2 } };

function forget(): void {
  tuner.keepTuningIn(undefined);
}

describe('tuner: what is remembered', () => {
  beforeEach(forget);
  after(forget);

  it('is found for the same device, kernel and bucket alone', () => {
    tuner.remember(subject, finding);
    expectEqual(tuner.findingOf(subject), { ...subject, ...finding });
    expectEqual(tuner.winnerOf({ ...subject, device: 'another' }), undefined);
    expectEqual(tuner.winnerOf({ ...subject, kernel: 'MLAAttentionDq' }), undefined);
    expectEqual(tuner.winnerOf({ ...subject, bucket: 'large' }), undefined);
    tuner.clearTuning();
    expectEqual(tuner.winnerOf(subject), undefined);
  });

  it('is the fastest, but the usual candidate where that is as fast but for noise', () => {
    expectEqual(tuner.findingFrom({ usual: 1, other: 0.9 }, 'usual')?.winner, 'other');
    expectEqual(tuner.findingFrom({ usual: 1, other: 0.98 }, 'usual')?.winner, 'usual');
    expectEqual(tuner.findingFrom({ other: 0.123456 }, 'usual'), {
      winner: 'other',
      times: { other: 0.1235 },
    });
    expectEqual(tuner.findingFrom({}, 'usual'), undefined);
  });

  it('gives way to a candidate on trial, until that has run or thrown', () => {
    tuner.remember(subject, finding);
    expectEqual(
      tuner.asWinner(subject, 'slow', () => tuner.winnerOf(subject)),
      'slow',
    );
    expectEqual(tuner.winnerOf(subject), 'fast');
    const run = (): never => tuner.asWinner(subject, 'slow', () => fails('on trial'));
    expectThrows(run, 'on trial');
    expectEqual(tuner.winnerOf(subject), 'fast');
  });

  it('is told in place of the reasons of those that were timed', () => {
    const passedOver = ['slow', 'never timed'].map((candidate) => ({ candidate, reason: 'cost 7' }));
    expectEqual(tuner.withTimes(passedOver, 'fast', finding), [
      { candidate: 'slow', reason: 'tuned: 2 ms, the winner 1 ms' },
      { candidate: 'never timed', reason: 'cost 7' },
    ]);
    expectEqual(tuner.withTimes(passedOver, 'fast'), passedOver);
    expectEqual(tuner.withTimes(passedOver, 'slow', finding), passedOver, 'the winner does not run');
  });

  it('is bounded: the oldest go first', () => {
    const bucket = (n: number): Subject => ({ ...subject, bucket: `bucket ${n}` });
    for (let n = 0; n < 600; n++) {
      tuner.remember(bucket(n), finding);
      tuner.remember(subject, finding);
    }
    const { findings } = JSON.parse(tuner.exportTuning()) as { findings: Subject[] };
    expectEqual(findings.length, 512);
    expectEqual([tuner.winnerOf(bucket(88)), tuner.winnerOf(bucket(89))], [undefined, 'fast']);
    expectEqual(tuner.winnerOf(subject), 'fast');
  });
});

function fails(message: string): never {
  throw new Error(message);
}

describe('tuner: as JSON', () => {
  beforeEach(forget);
  after(forget);

  it('comes back', () => {
    tuner.remember(subject, finding);
    const json = tuner.exportTuning();
    tuner.clearTuning();
    tuner.remember({ ...subject, bucket: 'mine' }, finding);
    tuner.importTuning(json);
    expectEqual(
      [subject.bucket, 'mine'].map((bucket) => tuner.winnerOf({ ...subject, bucket })),
      ['fast', 'fast'],
    );
  });

  const entry = { ...subject, ...finding };
  const file = (findings: unknown, version = 2): string =>
    JSON.stringify({ format: 'tfjs-mla tuning', version, findings });
  const expected =
    'must be { device, kernel, bucket, winner, times: { candidate: ms } } with a time of the winner, got ';
  const refusals: Record<string, string> = {
    'importTuning: json must be what exportTuning() returned, got {"format': '{"format',
    'importTuning: json must be what exportTuning() returned, got null': 'null',
    'importTuning: json must be what exportTuning() returned, got {"findings":[]}': '{"findings":[]}',
    'importTuning: required: format version 2, got 1: another version of tfjs-mla wrote it': file([], 1),
    [`importTuning: findings[1] ${expected}7`]: file([entry, 7]),
    [`importTuning: findings[0] ${expected}{"device":"a GPU","kernel":"MatMul","bucket":"small","winner…`]:
      file([{ ...entry, kernel: 'MatMul' }]),
    [`importTuning: findings[0] ${expected}{"winner":"none","times":{"fast":1,"slow":2},"device":"a GPU…`]:
      file([{ winner: 'none', times: finding.times, ...subject }]),
    [`importTuning: findings[0] ${expected}{"times":{"fast":-1},"winner":"fast","device":"a GPU","kerne…`]:
      file([{ times: { fast: -1 }, winner: 'fast', ...subject }]),
  };
  for (const [message, json] of Object.entries(refusals)) {
    it(message, () => {
      tuner.remember(subject, finding);
      const before = tuner.exportTuning();
      expectThrows(() => tuner.importTuning(json), message);
      expectEqual(tuner.exportTuning(), before, 'findings');
    });
  }
});

describe('tuner: storage', () => {
  let folder: string;
  let path: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-mla-tuner-'));
    path = join(folder, 'caches', 'tuning.json');
    tuner.keepTuningIn(fileStorage(() => path));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  after(forget);

  it('a file outlives the process, and is there as a whole or not at all', () => {
    tuner.remember(subject, finding);
    tuner.remember({ ...subject, bucket: 'large' }, finding);
    expectEqual(readdirSync(join(folder, 'caches')), ['tuning.json']);
    expectEqual(readFileSync(path, 'utf8'), tuner.exportTuning());
    tuner.keepTuningIn(fileStorage(() => path));
    expectEqual(tuner.winnerOf(subject), 'fast');
    tuner.clearTuning();
    tuner.keepTuningIn(fileStorage(() => path));
    expectEqual(tuner.winnerOf(subject), undefined);
  });

  it('is read when something is asked for, and once', () => {
    let reads = 0;
    tuner.keepTuningIn({ read: () => void reads++, write: () => undefined });
    expectEqual(reads, 0);
    tuner.winnerOf(subject);
    tuner.winnerOf(subject);
    expectEqual(reads, 1);
  });

  it('what another process stored meanwhile is kept', () => {
    tuner.remember(subject, finding);
    const theirs = tuner.exportTuning().replace('"small"', '"theirs"');
    writeFileSync(path, theirs);
    tuner.remember({ ...subject, bucket: 'large' }, finding);
    const stored = JSON.parse(readFileSync(path, 'utf8')) as { findings: Subject[] };
    expectEqual(
      stored.findings.map(({ bucket }) => bucket),
      ['theirs', 'small', 'large'],
    );
  });

  it('broken content is ignored with one warning, and replaced', () => {
    tuner.remember(subject, finding);
    writeFileSync(path, 'no JSON');
    tuner.keepTuningIn(fileStorage(() => path));
    const warnings = capturingWarnings(() => {
      expectEqual([tuner.winnerOf(subject), tuner.winnerOf(subject)], [undefined, undefined]);
      tuner.remember(subject, finding);
    });
    expectEqual(warnings, [
      'tfjs-mla: stored tuning is not used: importTuning: json must be what exportTuning() returned, got no JSON',
    ]);
    expectEqual(readFileSync(path, 'utf8'), tuner.exportTuning());
  });

  it('where nothing can be written there is one warning, and findings last as long as the process', () => {
    writeFileSync(join(folder, 'caches'), 'a file where the folder would be');
    const warnings = capturingWarnings(() => {
      tuner.remember(subject, finding);
      tuner.remember({ ...subject, bucket: 'large' }, finding);
    });
    expectEqual(warnings.length, 1);
    expectEqual(tuner.winnerOf(subject), 'fast');
  });
});
