"""The divergence fused with the LM head (custom VJP, a chunk at a time) against the plain
computation over full logits and against the same chunks under `jax.checkpoint` (remat).

    python benchmarks/fused_head.py [--tokens 1024] [--vocab 152064] [--kind forward]
    python benchmarks/fused_head.py --chunk 128 64 256 --alone

Times value and gradient with respect to the student's hidden states, after asserting that all three
agree. Prints one JSON line a comparison; `ratio` is the fused one over the peer, in time and in
bytes that the compiler assigns. Of several sizes of a chunk the first is compared with the peers,
the others with the first, in the same rounds.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
from shapes import SMOLLM2, compiled_bytes
from timing import interleaved, report

from sleep_jax.models.linear import matmul
from sleep_jax.seeding.divergence import Divergence, token_scores

AGREE = {"bfloat16": 0.02, "float32": 1e-4}  # largest relative error of a gradient's norm


def definition(kind, beta, student, teacher, targets, head):
    """(divergence, log-probability) of tokens, by their formulae over whole logits."""
    log_s, log_t = (jax.nn.log_softmax(matmul(h, head), axis=-1) for h in (student, teacher))
    s, t = jnp.exp(log_s), jnp.exp(log_t)
    if kind == "forward":
        kl = jnp.sum(t * (log_t - log_s), -1)
    elif kind == "reverse":
        kl = jnp.sum(s * (log_s - log_t), -1)
    else:
        log_m = jnp.logaddexp(log_t + jnp.log(beta), log_s + jnp.log1p(-beta))
        kl = beta * jnp.sum(t * (log_t - log_m), -1)
        kl = kl + (1 - beta) * jnp.sum(s * (log_s - log_m), -1)
    return kl, jnp.take_along_axis(log_s, targets[:, None], -1)[:, 0]


def main():
    """Runs every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=SMOLLM2.width)
    parser.add_argument("--vocab", type=int, default=152064)
    parser.add_argument("--chunk", type=int, nargs="+", default=[128], help="tokens in a chunk")
    parser.add_argument("--alone", action="store_true", help="leave the peers out")
    parser.add_argument("--kind", choices=("forward", "reverse", "jsd"), default="forward")
    parser.add_argument("--dtype", choices=sorted(AGREE), default="bfloat16")
    parser.add_argument("--untied", action="store_true", help="the head is no embedding")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.tokens % args.chunk[0]:
        parser.error(f"--tokens={args.tokens} is no multiple of --chunk={args.chunk[0]}")
    beta, keys = 0.5, jax.random.split(jax.random.key(0), 5)
    student, teacher = (jax.random.normal(k, (args.tokens, args.width)) for k in keys[:2])
    table = 2 * args.width**-0.5 * jax.random.normal(keys[2], (args.vocab, args.width))
    table = jnp.copy(table.T if args.untied else table).astype(args.dtype)
    targets = jax.random.randint(keys[3], (args.tokens,), 0, args.vocab)
    weights = jax.random.normal(keys[4], (2, args.tokens))
    divergence = Divergence(args.kind, beta=beta)
    formula = functools.partial(definition, args.kind, beta)

    def fused(chunk, student, teacher, targets, head):
        mask = jnp.ones(targets.shape, bool)
        scores = token_scores(student, teacher, targets, mask, head, chunk, divergence=divergence)
        return scores.kl, scores.log_prob

    def remat(student, teacher, targets, head):
        chunks = (x.reshape(-1, args.chunk[0], *x.shape[1:]) for x in (student, teacher, targets))
        one = jax.checkpoint(lambda parts: formula(*parts, head))
        return tuple(x.reshape(-1) for x in jax.lax.map(one, tuple(chunks)))

    def with_gradient(scores):
        def loss(student, teacher, targets, table, weights):
            head = table if args.untied else table.T  # transposed in the program, as a model's is
            kl, log_prob = scores(student, teacher, targets, head)
            return jnp.vdot(weights[0], kl) + jnp.vdot(weights[1], log_prob)

        return jax.jit(jax.value_and_grad(loss))

    inputs = (student, teacher, targets, table, weights)
    peers = {"full logits": with_gradient(formula), "remat": with_gradient(remat)}
    _, want = peers["full logits"](*inputs)
    ours = {
        f"custom vjp, chunk {chunk}": with_gradient(functools.partial(fused, chunk))
        for chunk in args.chunk
    }
    programs = ours | ({} if args.alone else peers)
    results = {name: run(*inputs) for name, run in programs.items()}
    errors = {
        name: float(jnp.linalg.norm(gradient - want) / jnp.linalg.norm(want))
        for name, (_, gradient) in results.items()
    }
    assert max(errors.values()) < AGREE[args.dtype], f"gradients differ: {errors}"
    del results, want

    size = {name: [compiled_bytes(run, *inputs)] for name, run in programs.items()}
    seconds = interleaved(
        {n: functools.partial(run, *inputs) for n, run in programs.items()}, args.rounds
    )
    first, *others = ours
    pairs = [(other, first) for other in others]
    pairs += [(first, peer) for peer in programs if peer in peers]
    for name, peer in pairs:
        for what, measured in (("bytes", size), ("time", seconds)):
            report(
                f"divergence with LM head, {what}",
                measured,
                name,
                peer,
                gradient_error=errors[name],
                **vars(args),
            )


if __name__ == "__main__":
    main()
