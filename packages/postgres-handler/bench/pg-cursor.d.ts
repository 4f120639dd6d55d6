// pg-cursor brings no types. What the benchmark uses of it:
declare module 'pg-cursor' {
  import type { CustomTypesConfig, Submittable } from 'pg'

  export default class Cursor<Row> implements Submittable {
    constructor(text: string, values: readonly unknown[], config?: { readonly types?: CustomTypesConfig })
    submit: Submittable['submit']
    read(maxRows: number): Promise<Row[]>
    close(): Promise<void>
  }
}
