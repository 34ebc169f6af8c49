// One attempt under one Idempotency-Key: asked again with the same, until it is another attempt.

const MOST_TRIES = 4;
const LONGEST_WAIT_S = 10;

/** A version 4 UUID (RFC 9562); `crypto.randomUUID` is not there on pages without TLS. */
export function freshUuid() {
  const given = crypto.getRandomValues(new Uint8Array(16));
  given[6] = (given[6] & 0x0f) | 0x40;
  given[8] = (given[8] & 0x3f) | 0x80;
  const hex = [...given].map((one) => one.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** `send(work, waits)` does `work(key)`, again after a fault that passes; every try has one key.
 *
 * `renew()`: what is sent next is something else, if anything was sent before.
 */
export function keyedAttempt() {
  let key = freshUuid();
  let isSent = false;

  async function send(work, waits) {
    isSent = true;
    for (let tries = 1; ; tries += 1) {
      try {
        return await work(key);
      } catch (fault) {
        if (!fault.isPassing || tries === MOST_TRIES) throw fault;
        const seconds = Math.min(fault.retryAfterS ?? tries, LONGEST_WAIT_S);
        waits(seconds);
        await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      }
    }
  }

  function renew() {
    if (isSent) key = freshUuid();
    isSent = false;
  }

  return { send, renew };
}
