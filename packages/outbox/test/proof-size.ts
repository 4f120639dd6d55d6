/** How thorough the proofs are: 1 in the suite, more by hand (`OUTBOX_PROOF=20`). */
export const proofSize: number = Number(process.env['OUTBOX_PROOF'] ?? 1)
