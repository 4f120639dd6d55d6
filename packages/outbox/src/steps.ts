/** The moments between which a worker may die. Tests kill the process at each of them. */
export type Step = 'tx claimed' | 'tx handled' | 'tx committed' | 'lease claimed' | 'lease settling' | 'lease settled'

/** @internal */
export const steps: { onStep: ((step: Step) => void) | undefined } = { onStep: undefined }
