/** What a program ends with; the same in every app, so that a scheduler can tell "come back later" from "mend it first". */
export const exitCodes = {
  ok: 0,
  /** Something nobody foresaw. */
  failed: 1,
  /** Wrong arguments or configuration. */
  usage: 2,
  /** Not accepted, or not allowed. */
  denied: 3,
  /** A table, bucket, secret or run that does not exist. */
  notFound: 4,
  /** A server could not be reached or did not answer in time: try again later. */
  unavailable: 5,
  /** The data is not what it says it is. */
  data: 6,
  /** Somebody else holds it: another worker has the claim, or a target has changed. */
  conflict: 7,
  /** Something is full: a disk, a pool, a memory limit. */
  capacity: 8,
  /** Ended by SIGINT, SIGTERM: 128 and the number of the signal. */
  interrupted: 130,
  terminated: 143,
} as const

/** The reason of an abort that a signal of the operating system caused. */
export class Interrupted extends Error {
  readonly signalName: 'SIGINT' | 'SIGTERM'
  constructor(signalName: 'SIGINT' | 'SIGTERM') {
    super(`stopped by ${signalName}`)
    this.name = 'Interrupted'
    this.signalName = signalName
  }

  get exitCode(): number {
    return this.signalName === 'SIGINT' ? exitCodes.interrupted : exitCodes.terminated
  }
}

/** The lines that `--help` shows. */
export const exitCodeHelp = `Exit codes:
  0    done
  1    failed in a way nobody foresaw
  2    wrong arguments or configuration
  3    a server refused: wrong credentials or no rights
  4    a table, bucket, secret or run does not exist
  5    a server could not be reached or did not answer in time; try again later
  6    the data is not what it says it is
  7    somebody else holds it, or it has changed meanwhile
  8    something is full: a disk, a pool, a memory limit
  130  stopped by SIGINT          143  stopped by SIGTERM`
