/** The page's elements, by their ids in index.html. */

type ElementClass<E extends HTMLElement> = new () => E;

/** Throws if index.html has no such element of that kind. */
export function element<E extends HTMLElement>(id: string, kind: ElementClass<E>): E {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`index.html: expected a ${kind.name} with id ${id}`);
  return found;
}

export const button = (id: string): HTMLButtonElement => element(id, HTMLButtonElement);
export const input = (id: string): HTMLInputElement => element(id, HTMLInputElement);

export function setText(id: string, text: string): void {
  const target = element(id, HTMLElement);
  if (target.textContent !== text) target.textContent = text;
}

/** A figure, with a line in small letters below. */
export function setFigure(id: string, text: string, note = ''): void {
  const small = document.createElement('small');
  small.textContent = note;
  element(id, HTMLElement).replaceChildren(text, small);
}

export function make(tag: string, className: string, text = ''): HTMLElement {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** A prompt, set off from what the model made of it. */
export function continuation(prompt: string, text = ''): HTMLElement {
  const paragraph = make('p', 'text');
  paragraph.append(make('mark', '', prompt), text);
  return paragraph;
}
