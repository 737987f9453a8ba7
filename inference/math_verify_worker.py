"""Decides with Math-Verify whether an answer equals a reference: JSON lines on standard input and output.

Request `{"id", "reference", "answer"}`, both bare, without a box; reply `{"id", "verdict", "detail"}`. The verdict is
`correct`, `incorrect`, `undecided` or `error` (a request that is none). `"retire": true` asks for a fresh process. The
first line is `{"ready": true, "math_verify": VERSION}`, or says why not. A request with `"bare": true` takes the
library's bare word where there would be no verdict; the reply says so with `"bare": true`.

What is read by the library is decided here with more care than its own `verify` takes, since a wrong verdict is learned:

- `correct` needs the library's word (`simplify` finds no difference) and values that agree to 25 digits; `incorrect`
  needs a witness, a point at which the values differ. The library's own "no" may be an exception that it swallowed.
- Decimals are exact: the library rounds to six places, which makes 0.0000001 of 0.0000002.
- Where the reading of a text is doubtful, nothing is decided: a unit, a base or a word that the library drops, `\\log`
  whose base it guesses, upper and lower case that it folds, marks such as `%` on one side only (see `doubt`).
- Tuples, sets, intervals, matrices and relations are compared with their own kind, part by part.

What would take too much is `undecided`: processor time (a signal of the process's own clock, so that a busy machine
changes no verdict), memory, depth, numbers of more than 20,000 digits. A computation that never comes back to Python is
ended by the system's limit of processor time. Started as `python -c THIS MEMORY_MIB CPU_S`.
"""

import collections
import json
import os
import re
import resource
import signal
import sys

# With `-c` the working folder comes first, and may hold a `sympy.py`.
sys.path = [place for place in sys.path if place]

RETIRE_AFTER = 2000
MOST_DIGITS = 20_000.0
MOST_ELEMENTS = 40
# The library's parser takes seconds for what is deeper.
MOST_DEPTH = 24
TOO_DEEP = "too deep"
TOO_MANY_DIGITS = "a number of too many digits"


class OutOfTime(BaseException):
    """Processor time is used up. No `Exception`: the libraries catch those."""


# Commands that say how a text looks, not what it means.
LOOKS = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|[dt]frac|frac|math(?:rm|bf|it|sf|cal|bb)|text(?:bf|it|rm)?|mbox|quad|qquad"
    r"|operatorname|big|Big|bigg|Bigg|limits|nolimits)(?![A-Za-z])"
)
COMMAND = re.compile(r"\\(?:begin|end)\s*\{[^}]*\}(?:\{[^}]*\})?|\\[A-Za-z]+")
TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|operatorname\*?)\s*\{([^{}]*)\}")
GAP = r"(?:\s|~|\\[;,:! ]|\\q?quad(?![A-Za-z]))"
TWO_NUMBERS = re.compile(rf"[\d.]{GAP}+[\d.]")
MARKS = {
    "percent": re.compile(r"%|percent|pct", re.I),
    "degree": re.compile(r"\\circ|°|\\degree|degree|\\deg(?![A-Za-z])", re.I),
    "currency": re.compile(r"\$|€|£|¥|₹|\\pounds|\\euro"),
    "prime": re.compile(r"'|′|\\prime"),
    "ratio": re.compile(r":"),
    "member": re.compile(r"\\in(?![A-Za-z])|∈|\\notin"),
    "font": re.compile(r"\\math(?:bf|it|sf|tt|cal|frak|scr)|\\boldsymbol|\\bm(?![A-Za-z])"),
    "modulo": re.compile(r"\\[bp]?mod(?![A-Za-z])|\bmod\b"),
}
PRIME = re.compile(r"'|′|\\prime")
DERIVATIVE = re.compile(r"\\[dt]?frac\s*\{\s*(?:d|\\partial)|\\partial")
# The library takes `a_k` for a letter that does not depend on k.
INDEXED_SUM = re.compile(r"\\(?:sum|prod)\s*_\s*(?:\{[^}]*\}|.).*(?<![A-Za-z])[A-Za-z]_\{?[a-z]")
ODD = {
    "a number in the notation of programs": re.compile(r"\d[eE][+-]?\d"),
    "a number with an index": re.compile(r"[\d)]\s*_"),
    "two factorials": re.compile(r"!\s*!"),
    "dots": re.compile(r"\.\.\.|…|\\[lcvd]?dots"),
    "nothing that is seen": re.compile(r"phantom"),
    # SymPy takes the limit from one side.
    "a limit": re.compile(r"\\lim(?![A-Za-z])"),
    "an integral without limits": re.compile(r"\\int(?!\s*(?:\\limits)?\s*_)"),
    "a set of letters": re.compile(r"\\(?:cup|cap|setminus)[^\\]*\\\{[^}]*[A-Za-z]"),
    "a factorial of infinity": re.compile(r"(?:\\infty|∞)\s*\}?\s*!"),
    "an approximation": re.compile(r"\\approx|≈|\\sim(?![A-Za-z])|\\simeq"),
}
# A fraction before a number is read as a mixed number, the wrong way round. Names of environments, bounds of sums and
# bases are no such brackets.
BOUNDED = re.compile(
    r"\\(?:begin|end)\s*\{[^}]*\}"
    r"|\\(?:i+nt|oint|sum|prod|lim|log)(?:\\limits)?(?:\s*[_^]\s*(?:\{[^{}]*\}|[^{}]))*"
)
NUMBER_BEHIND = re.compile(rf"[)}}]{GAP}*\d")
BARE_LOG = re.compile(r"(?:\\log|(?<![A-Za-z\\])log)(?![A-Za-z])(?!\s*_)")
OTHER_LOG = re.compile(r"(?:\\ln|(?<![A-Za-z\\])ln)(?![A-Za-z])|(?:\\log|(?<![A-Za-z\\])log)\s*_")


def letters(text):
    """Letters and digits of a text that are no part of a command, each with its number."""
    # The library writes this one number as a fraction.
    text = re.sub(r"(?<![\d.])0?\.5(?!\d)", r"\\frac{1}{2}", text)
    return collections.Counter(re.findall(r"[A-Za-z0-9]", COMMAND.sub(" ", LOOKS.sub(" ", text))))


def words(text):
    """What stands in text commands, and runs of three letters or more, apart from words that join a list."""
    found = {word.strip().lower() for word in TEXT.findall(text)}
    found.update(run.lower() for run in re.findall(r"[A-Za-z]{3,}", COMMAND.sub(" ", text)))
    return found - {"", "and", "or", ",", "sin", "cos", "tan", "log", "exp", "sqrt"}


def depth(text):
    """How deep brackets of any kind are in each other, at most."""
    deepest = level = 0
    for char in text:
        level += (char in "({[") - (char in ")}]" and level > 0)
        deepest = max(deepest, level)
    return deepest


def doubt(reference, answer, normal):
    """Why the library's reading of the two texts is not to be trusted; `None` if it is. `normal`: its text to parse."""
    both = (reference, answer)
    if any(depth(text) > MOST_DEPTH for text in both):
        return TOO_DEEP
    for what, pattern in ODD.items():
        if any(pattern.search(text) for text in both):
            return what
    unbounded = [BOUNDED.sub("x", text) for text in both]
    if any(TWO_NUMBERS.search(text) for text in unbounded):
        return "two numbers side by side"
    if any(NUMBER_BEHIND.search(text) for text in unbounded):
        return "a number behind a bracket"
    for what, pattern in MARKS.items():
        if len({bool(pattern.search(text)) for text in both}) == 2:
            return f"a mark on one side only ({what})"
    if len({len(PRIME.findall(text)) for text in both}) == 2:
        return "another number of primes"
    if any(DERIVATIVE.search(text) for text in both):
        return "a derivative, whose letters may cancel"
    if any(INDEXED_SUM.search(text) for text in both):
        return "a sum over an index"
    bare = [bool(BARE_LOG.search(text)) for text in both]
    if any(bare) and (not all(bare) or any(OTHER_LOG.search(text) for text in both)):
        return "a logarithm without a base"
    if words(reference) != words(answer):
        return "words"
    if any(re.fullmatch(r"[\sA-Za-z]*[A-Za-z]\s*[A-Za-z][\sA-Za-z]*", TEXT.sub(r"\1", text)) for text in both):
        return "words"
    dropped = [letters(text) - letters(normal(text)) for text in both]
    if dropped[0] != dropped[1]:
        return "a part is not read"
    seen = set(letters(reference)) | set(letters(answer))
    if any(letter != letter.lower() and letter.lower() in seen for letter in seen):
        return "upper and lower case of one letter"
    return None


class Judge:
    """Math-Verify, loaded once."""

    def __init__(self):
        import logging

        logging.disable(logging.CRITICAL)
        import math_verify
        import sympy
        from latex2sympy2_extended.math_normalization import normalize_latex
        from sympy.core.random import seed

        self.sp = sympy
        self.seed = seed
        self.library = math_verify
        config = math_verify.LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
        self.config = [config]
        self.normal = lambda text: normalize_latex(text, config.normalization_config)

    def decide(self, reference, answer):
        """Verdict and why."""
        reason = doubt(reference, answer, self.normal)
        if reason:
            return "undecided", reason
        # What `simplify` tries at random must not depend on what was asked before.
        self.seed(0)
        read = [self.parse(text) for text in (reference, answer)]
        if None in read:
            return "undecided", "the reference is not read" if read[0] is None else "the answer is not read"
        if any(self.digits(value) > MOST_DIGITS for value in read):
            return "undecided", TOO_MANY_DIGITS
        results = set()
        for values in self.readings(*read):
            results.add(self.same(*values))
        if len(results) != 1 or None in results:
            return "undecided", "neither equal nor different"
        return ("correct" if results.pop() else "incorrect"), None

    def bare_word(self, reference, answer):
        """What the library itself says of two boxes, with its own defaults: what others report as its verdict."""
        read = [
            self.library.parse("\\boxed{%s}" % text, parsing_timeout=None, raise_on_error=True)
            for text in (reference, answer)
        ]
        if not all(read):
            return None
        self.seed(0)
        equal = self.library.verify(*read, timeout_seconds=None, raise_on_error=True)
        return "correct" if equal else "incorrect"

    def parse(self, text):
        """What the library reads in a boxed text: the whole of it, or nothing."""
        found = self.library.parse(
            "\\boxed{%s}" % text,
            self.config,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
            raise_on_error=True,
        )
        value = found[0] if len(found) == 1 else None
        if isinstance(value, self.sp.MatrixBase):
            return value.as_immutable()
        return value if isinstance(value, self.sp.Basic) else None

    def readings(self, *values):
        """Both values with exact decimals and one symbol for each name. `i` is the imaginary unit; among variables it may
        be one, so that there are two readings."""
        sp = self.sp
        exact = [value.xreplace({f: sp.Rational(str(f)) for f in value.atoms(sp.Float)}) for value in values]
        # The library takes all variables of a text for real ones, or none.
        symbols = set().union(*(value.atoms(sp.Symbol) for value in exact))
        unreal = {symbol.name for symbol in symbols if not symbol.is_real}
        named = {s: sp.Symbol(s.name) if s.name in unreal else s for s in symbols}
        exact = [value.xreplace(named) for value in exact]
        units = {s: sp.I for value in exact for s in value.free_symbols if s.name == "i"}
        if not units or len({symbol.name for symbol in symbols}) > 1:
            yield exact
        if units:
            yield [value.xreplace(units) for value in exact]

    def digits(self, value):
        """An upper bound on the decimal digits of any number inside, from the shape alone."""
        sp, most = self.sp, float("inf")
        if isinstance(value, sp.Rational):
            return (abs(value.p).bit_length() + abs(value.q).bit_length()) * 0.302
        if isinstance(value, sp.Float):
            return 20.0 + abs(float(sp.log(abs(value), 10))) if value != 0 else 1.0
        parts = [self.digits(part) for part in getattr(value, "args", ())]
        if any(part > MOST_DIGITS for part in parts):
            return most
        if isinstance(value, sp.Pow):
            if parts[1] > 7:
                return most
            exponent = value.args[1]
            power = float(abs(exponent)) if exponent.is_Rational else 10.0 ** parts[1]
            return max(parts[0], 1.0) * (power if not exponent.free_symbols else 1.0)
        if isinstance(value, (sp.factorial, sp.binomial, sp.ff, sp.rf, sp.gamma, sp.fibonacci, sp.catalan)):
            if not value.free_symbols:
                return most if max(parts) > 5 else 10.0 ** max(parts) * max(parts)
        if isinstance(value, (sp.Mul, sp.Add)):
            return sum(parts, 0.0)
        return max(parts, default=1.0)

    def kind(self, value):
        """What may be compared with what."""
        sp = self.sp
        kinds = (
            (sp.MatrixBase, "matrix"),
            (sp.FiniteSet, "finite set"),
            (sp.Interval, "interval"),
            (sp.Set, "set"),
            (sp.Tuple, "tuple"),
            (sp.And, "chain"),
            (sp.core.relational.Relational, "relation"),
            (sp.Expr, "expression"),
        )
        return next((name for type_, name in kinds if isinstance(value, type_)), "other")

    def same(self, a, b):
        """True, False, or None where neither is sure."""
        kind = self.kind(a)
        if kind != self.kind(b):
            return None
        if kind == "expression":
            return self.same_expression(a, b)
        if kind == "matrix":
            return self.all_same(list(a), list(b)) if a.shape == b.shape else False
        if kind == "tuple":
            return self.all_same(a.args, b.args) if len(a.args) == len(b.args) else False
        if kind == "interval":
            if (a.left_open, a.right_open) != (b.left_open, b.right_open):
                return False
            return self.all_same((a.start, a.end), (b.start, b.end))
        if kind == "finite set":
            return self.same_members(a.args, b.args)
        if kind == "relation":
            return self.same_relation(a, b)
        if kind == "chain":
            parts = (a._unsorted_args, b._unsorted_args)
            return True if len(parts[0]) == len(parts[1]) and self.all_same(*parts) else None
        if kind == "set":
            return True if self.library.verify(a, b, timeout_seconds=None, raise_on_error=True) else None
        return None

    def all_same(self, first, second):
        """Three-valued and."""
        results = [self.same(a, b) for a, b in zip(first, second, strict=True)]
        return False if False in results else (None if None in results else True)

    def same_members(self, first, second):
        """Whether each member of a set is one of the other's, both ways."""
        if len(first) * len(second) > MOST_ELEMENTS**2:
            return None
        table = [[self.same(a, b) for b in second] for a in first]
        rows = table + [list(column) for column in zip(*table)]
        if not table or not table[0]:
            return len(first) == len(second)
        if any(all(result is False for result in row) for row in rows):
            return False
        return True if all(True in row for row in rows) else None

    def same_relation(self, a, b):
        """Equations and inequalities whose sides differ by the same expression, but for a factor."""
        sp = self.sp
        if any(not isinstance(side, sp.Expr) for side in (a.lhs, a.rhs, b.lhs, b.rhs)):
            return None
        named = isinstance(a.lhs, sp.Symbol) or isinstance(a.lhs, sp.core.function.AppliedUndef)
        if isinstance(a, sp.Eq) and isinstance(b, sp.Eq) and a.lhs == b.lhs and named:
            if not (a.rhs.has(a.lhs) or b.rhs.has(b.lhs)):
                return self.same(a.rhs, b.rhs)
        a, b = (r.reversed if isinstance(r, (sp.Lt, sp.Le)) else r for r in (a, b))
        if type(a) is not type(b):
            return None
        ratio = sp.simplify((a.lhs - a.rhs) / (b.lhs - b.rhs))
        if not ratio.is_number or ratio.is_zero is not False or ratio.is_finite is not True:
            return None
        return True if isinstance(a, (sp.Eq, sp.Ne)) or ratio.is_positive else None

    def same_expression(self, a, b):
        """The library's word and values at points."""
        sp = self.sp
        if a == b:
            return None if a.has(sp.nan, sp.zoo) else True
        a, b = (value.doit() for value in (a, b))
        if a == b:
            return None if a.has(sp.nan, sp.zoo) else True
        if a.is_Rational and b.is_Rational:
            return False
        if a.has(sp.oo, -sp.oo, sp.nan, sp.zoo) or b.has(sp.oo, -sp.oo, sp.nan, sp.zoo):
            ends = [value in (sp.oo, -sp.oo) for value in (a, b)]
            plain = [value.is_Rational or value in (sp.oo, -sp.oo) for value in (a, b)]
            return False if any(ends) and all(plain) else None
        differ = self.differ(a, b)
        if differ:
            # A variable of another name may mean the same.
            names = (a.free_symbols, b.free_symbols)
            return False if names[0] <= names[1] or names[1] <= names[0] else None
        if differ is None and not (a.free_symbols | b.free_symbols):
            return None
        is_equal = self.library.verify(a, b, timeout_seconds=None, raise_on_error=True)
        return True if is_equal and differ is not None else None

    def differ(self, a, b):
        """Whether the two have different values at some point; None where there is none to look at."""
        sp = self.sp
        symbols = sorted(a.free_symbols | b.free_symbols, key=lambda symbol: symbol.name)
        lazy = (sp.Integral, sp.Sum, sp.Product, sp.Limit, sp.Derivative)
        if a.has(*lazy) or b.has(*lazy) or a.atoms(sp.core.function.AppliedUndef):
            return None
        looked = False
        for point in range(3 if symbols else 1):
            at = {symbol: self.value_of(symbol, place, point) for place, symbol in enumerate(symbols)}
            try:
                x, y = (sp.N(value.xreplace(at), 40) for value in (a, b))
                if not (x.is_number and y.is_number) or not (x.is_finite and y.is_finite):
                    continue
                size = max(abs(x), abs(y))
                if size < sp.Float("1e-35"):
                    continue
                distance = abs(x - y) / size
            except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError):
                continue
            if distance > sp.Float("1e-12"):
                return True
            if distance > sp.Float("1e-25"):
                return None
            looked = True
        return False if looked else None

    def value_of(self, symbol, place, point):
        """Where a variable is looked at: what is usually a whole number stays one."""
        if re.match(r"[ijklmnpqtN]$", symbol.name) or symbol.is_integer:
            return self.sp.Integer([3, 4, 7][point] + 2 * place)
        return self.sp.Rational([137, 71, 223][point] + 26 * place, [100, 40, 70][point])


def limit(memory_mib):
    """Bounds what this process may take."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = at_most(memory_mib << 20, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def at_most(wanted, hard):
    """A limit that the system lets one set: none above the hard one."""
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def out_of_time(_signal, _frame):
    """Comes again until the timer is stopped: a bare `except` may swallow it."""
    raise OutOfTime


def ruling(judge, request):
    """What to reply, and why there is no verdict of the strict kind."""
    texts = request["reference"], request["answer"]
    try:
        verdict, detail = judge.decide(*texts)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001: as in `answer_one`
        verdict, detail = "undecided", type(error).__name__
    # What would take too much is not asked again.
    if verdict == "undecided" and request.get("bare") and detail not in (TOO_DEEP, TOO_MANY_DIGITS):
        word = judge.bare_word(*texts)
        if word:
            return {"verdict": word, "bare": True}, detail
    return {"verdict": verdict}, detail


def answer_one(judge, request, cpu_s):
    """The reply to one request."""
    reply = {"id": request["id"]}
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    # For a computation that never comes back to Python, and so sees no signal handler.
    most_s = int(used.ru_utime + used.ru_stime + 2 * cpu_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (at_most(most_s, hard), hard))
    late = False
    try:
        signal.setitimer(signal.ITIMER_PROF, cpu_s, 0.25)
        try:
            said, detail = ruling(judge, request)
            reply.update(said)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            spent = resource.getrusage(resource.RUSAGE_SELF)
            late = spent.ru_utime + spent.ru_stime - used.ru_utime - used.ru_stime > cpu_s
    except OutOfTime:
        # A signal may come between the end of the computation and the end of the timer.
        signal.setitimer(signal.ITIMER_PROF, 0)
        late = True
    except MemoryError:
        reply.update(verdict="undecided", retire=True)
        detail = "out of memory"
    except Exception as error:  # noqa: BLE001: whatever the libraries fail with says nothing of the answer
        reply["verdict"], detail = "undecided", type(error).__name__
    if late:
        reply, detail = {"id": request["id"], "verdict": "undecided"}, "out of processor time"
    if detail:
        reply["detail"] = detail
    return reply


def main():
    """Replies until standard input ends."""
    memory_mib, cpu_s = int(sys.argv[1]), float(sys.argv[2])
    # What a library prints must not come between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)

    def say(reply):
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        limit(memory_mib)
        from importlib.metadata import version

        judge = Judge()
        judge.decide("\\frac{1}{2}", "0.5")
        installed = version("math-verify")
    except BaseException as error:  # noqa: BLE001: the other side cannot see why this process ends
        say({"ready": False, "detail": f"{type(error).__name__}: {error}"})
        return
    signal.signal(signal.SIGPROF, out_of_time)
    say({"ready": True, "math_verify": installed})
    served = 0
    for line in sys.stdin.buffer:
        served += 1
        try:
            request = json.loads(line.decode("utf-8", errors="replace"))
            asked = [request["id"], request["reference"], request["answer"]]
            if not all(isinstance(text, str) for text in asked[1:]):
                raise TypeError("`reference` and `answer` are texts")
        except (ValueError, KeyError, TypeError) as error:
            say({"id": None, "verdict": "error", "detail": f"{type(error).__name__}: {error}"})
            continue
        reply = answer_one(judge, request, cpu_s)
        if served >= RETIRE_AFTER:
            reply["retire"] = True
        say(reply)
        if reply.get("retire"):
            return


if __name__ == "__main__":
    main()
