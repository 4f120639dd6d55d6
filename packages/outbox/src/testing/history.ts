/** What happened, in its order. Write down each record when it happens; `event` is the event's id, `run` names one attempt. */
export type HistoryRecord =
  /** Its transaction was committed. Events of one key in the order of their ids. */
  | { readonly what: 'enqueued'; readonly event: string; readonly key?: string | undefined }
  /** A handler begins. */
  | { readonly what: 'begun'; readonly event: string; readonly run: string }
  /** The handler has ended, however it did. */
  | { readonly what: 'ended'; readonly run: string }
  /** The worker of this attempt died, or was told that it is another's now. */
  | { readonly what: 'lost'; readonly run: string }
  /** An effect that is there for good: a row that was committed, a letter that was sent. */
  | { readonly what: 'effect'; readonly event: string }
  /** This attempt ended the event: it is done, discarded or a dead letter. */
  | { readonly what: 'completed'; readonly event: string; readonly run: string; readonly as: 'done' | 'dead' | 'discarded' }

export interface HistoryOptions {
  /** `tx`: each event that is done has one effect, no other event has any. `lease`: one that is done has at least one. */
  readonly effect: 'tx' | 'lease'
  /** Events that may still wait. */
  readonly waiting?: Iterable<string> | undefined
}

export interface Violation {
  /**
   * - `lost`: an event that was enqueued is neither completed nor waiting, or is done without an effect;
   * - `doubled`: an event has an effect too many;
   * - `reordered`: an event ran for good before one of its key that was enqueued earlier;
   * - `overlapping`: two attempts of one key at the same time;
   * - `stale`: an attempt that was lost completed its event, or an event was completed twice.
   */
  readonly rule: 'lost' | 'doubled' | 'reordered' | 'overlapping' | 'stale'
  readonly event: string
  readonly text: string
}

interface Seen {
  readonly key: string | undefined
  effects: number
  completed: { readonly run: string; readonly as: 'done' | 'dead' | 'discarded' } | undefined
}

/** Holds a history against the promises of the outbox. Empty: all were kept. */
export function checkHistory(records: Iterable<HistoryRecord>, options: HistoryOptions): Violation[] {
  const violations: Violation[] = []
  const violated = (rule: Violation['rule'], event: string, text: string): void =>
    void violations.push({ rule, event, text: `event ${event} ${text}` })
  const events = new Map<string, Seen>()
  /** Of each key its events in their order. */
  const keys = new Map<string, string[]>()
  const begun = new Map<string, { readonly event: string; readonly at: number }>()
  const running = new Map<string, Set<string>>()
  const lost = new Set<string>()
  let at = 0
  const runEnds = (run: string): void => {
    const key = events.get(begun.get(run)?.event ?? '')?.key
    if (key !== undefined) running.get(key)?.delete(run)
  }
  for (const record of records) {
    at += 1
    if (record.what === 'enqueued') {
      events.set(record.event, { key: record.key, effects: 0, completed: undefined })
      if (record.key === undefined) continue
      const of = keys.get(record.key)
      if (of === undefined) keys.set(record.key, [record.event])
      else of.push(record.event)
      continue
    }
    if (record.what === 'ended') runEnds(record.run)
    else if (record.what === 'lost') {
      lost.add(record.run)
      runEnds(record.run)
    } else {
      const seen = events.get(record.event)
      if (seen === undefined) throw new Error(`record ${at}: event ${record.event} was not enqueued before`)
      if (record.what === 'begun') {
        begun.set(record.run, { event: record.event, at })
        if (seen.key === undefined) continue
        const beside = running.get(seen.key) ?? new Set()
        for (const other of beside)
          violated('overlapping', record.event, `began (${record.run}) while ${other} of the same key ran`)
        running.set(seen.key, beside.add(record.run))
      } else if (record.what === 'effect') seen.effects += 1
      else {
        if (lost.has(record.run)) violated('stale', record.event, `was completed by ${record.run}, which was lost`)
        if (seen.completed !== undefined)
          violated('stale', record.event, `was completed by ${seen.completed.run} and by ${record.run}`)
        seen.completed = record
      }
    }
  }
  const waiting = new Set(options.waiting)
  for (const [event, { effects, completed }] of events) {
    if (completed === undefined && !waiting.has(event)) violated('lost', event, 'is neither completed nor waiting')
    if (completed?.as === 'done' && effects === 0) violated('lost', event, 'is done and has no effect')
    const allowed = options.effect === 'lease' ? Infinity : completed?.as === 'done' ? 1 : 0
    if (effects > allowed) violated('doubled', event, `has ${effects} effects, not ${allowed}`)
  }
  for (const order of keys.values()) {
    let last = { event: '', at: 0 }
    for (const event of order) {
      const run = begun.get(events.get(event)?.completed?.run ?? '')
      if (run === undefined) continue
      if (run.at < last.at) violated('reordered', event, `ran before ${last.event}, which was enqueued earlier with the same key`)
      else last = run
    }
  }
  return violations
}
