/** One checkpoint in the browser's IndexedDB. A transaction writes it as a whole or not at all. */
import type { CheckpointMap, SavedNote } from './messages.js';

const databaseName = 'tfjs-mla-demo';
const storeName = 'checkpoint';

/** Replaces the checkpoint before. Rejects, and keeps that one, if the browser has no room. */
export async function putCheckpoint(step: number, files: CheckpointMap): Promise<SavedNote> {
  const bytes = [...files.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  const note: SavedNote = { step, time: Date.now(), bytes };
  await inStore('readwrite', (store) => {
    store.put(files, 'files');
    return store.put(note, 'note');
  });
  return note;
}

/** The files that were saved last. Throws if there are none. */
export async function getCheckpoint(): Promise<CheckpointMap> {
  const files = await inStore<CheckpointMap | undefined>('readonly', (store) => store.get('files'));
  return files ?? fail('nothing is saved in this browser yet');
}

/** What is saved, if anything. */
export function checkpointNote(): Promise<SavedNote | undefined> {
  return inStore<SavedNote | undefined>('readonly', (store) => store.get('note'));
}

async function inStore<T>(mode: IDBTransactionMode, use: (store: IDBObjectStore) => IDBRequest): Promise<T> {
  const database = await openDatabase();
  try {
    const transaction = database.transaction(storeName, mode, { durability: 'strict' });
    const request = use(transaction.objectStore(storeName));
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(storageError(transaction.error));
    });
    return request.result as T;
  } finally {
    database.close();
  }
}

function openDatabase(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(databaseName, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(storeName);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(storageError(request.error));
  });
}

function storageError(error: DOMException | null): Error {
  return new Error(`the browser's storage refused: ${error?.message || error?.name || 'no reason given'}`);
}

function fail(text: string): never {
  throw new Error(text);
}
