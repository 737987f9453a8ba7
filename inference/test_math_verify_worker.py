"""What the worker makes of Math-Verify, without a process around it; and the protocol, with one."""

import json
import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

import math_verify_worker as worker

WORKER = Path(worker.__file__).read_text(encoding="utf-8")


class Doubt(unittest.TestCase):
    """Texts that the library reads in a way of its own."""

    def test_texts(self):
        normal = worker.Judge().normal
        for reference, answer, reason in (
            ("7", r"3 \bmod 7", "a mark on one side only (modulo)"),
            ("50", r"50\%", "a mark on one side only (percent)"),
            (r"30^\circ", "30", "a mark on one side only (degree)"),
            ("5", "2 3", "two numbers side by side"),
            ("5", r"2 \quad 3", "two numbers side by side"),
            ("7.02e5", "702000", "a number in the notation of programs"),
            ("2", "10_{2}", "a number with an index"),
            ("120", "5!!", "two factorials"),
            ("No", "on", "words"),
            (r"5 \text{ cm}", "5", "words"),
            ("3h", "3", "a part is not read"),
            ("n-N", "0", "upper and lower case of one letter"),
            (r"\log 2", r"\ln 2", "a logarithm without a base"),
            (r"\log 2", r"\log_{10} 2", "a logarithm without a base"),
            (r"\log 4", r"2\log 2", None),
            ("0.5", r"\frac{1}{2}", None),
            (r"x_{1} + x_{2}", r"x_2 + x_1", None),
            (r"\left( 1, 2 \right)", "(1, 2)", None),
            (r"\frac{21}{11}", r"\frac{1}{11} 21", "a number behind a bracket"),
            ("3", r"\log_2 8", None),
            ("1", r"\int_0^1 2 x dx", None),
            (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}", None),
            ("120", "5!", None),
            ("f''(x)", "f'(x)", "another number of primes"),
            (r"\frac{dy}{dx} = 2x", r"\frac{dx}{dy} = 2x", "a derivative, whose letters may cancel"),
            (r"\sum_{k=1}^n a_k", "n a_k", "a sum over an index"),
            ("55", r"\sum_{k=1}^{10} k", None),
            ("5", r"\phantom{5}", "nothing that is seen"),
            ("1", r"\lim_{x\to0}\frac{|x|}{x}", "a limit"),
            ("0", r"\int 0 dx", "an integral without limits"),
            (r"\infty", r"\infty!", "a factorial of infinity"),
            (r"\mathbb{R}", r"\mathbb{R} \cup \{x\}", "a set of letters"),
            ("x", "{" * 25 + "x" + "}" * 25, "too deep"),
        ):
            with self.subTest(reference=reference, answer=answer):
                self.assertEqual(worker.doubt(reference, answer, normal), reason)


class Decide(unittest.TestCase):
    """Verdicts; the Rust tests have more of them."""

    @classmethod
    def setUpClass(cls):
        cls.judge = worker.Judge()

    def check(self, verdict, pairs):
        for reference, answer in pairs:
            with self.subTest(reference=reference, answer=answer):
                self.assertEqual(self.judge.decide(reference, answer)[0], verdict)

    def test_correct(self):
        self.check(
            "correct",
            [("2i", "(1+i)^2"), (r"\frac{e^x+e^{-x}}{2}", r"\cosh x"), ("x>2", "2<x"), (r"\pm 3", r"\{3, -3\}")],
        )

    def test_incorrect(self):
        self.check("incorrect", [(r"\infty", r"-\infty"), (r"\infty", "3"), ("(1,2,3)", "(1,2,4)"), ("[1,2]", "[1,2)")])

    def test_decimals_are_exact(self):
        self.check("incorrect", [("0.0000001", "0.0000002"), (r"\frac{1}{3}", "0.333333"), ("10^{-20}", "10^{-21}")])
        self.check("correct", [("0.125", r"\frac{1}{8}"), ("1.50", r"\frac{3}{2}")])

    def test_undecided(self):
        self.check(
            "undecided",
            [
                ("", "3"),
                ("9^{9^{9^9}}", "3"),
                (r"\{3\}", "3"),
                ("(1,2)", r"\{1,2\}"),
                ("2n+1", "2k+1"),
                (r"\cos(n\pi)", "(-1)^n"),
                (r"\frac{1}{3} E_1", r"\frac{1}{3}"),
                ("x=3", "3"),
            ],
        )


class Timer(unittest.TestCase):
    """The timer of one request must not strike in the next."""

    def test_a_signal_that_comes_while_the_timer_is_stopped(self):
        def stop_late(which, seconds, interval=0.0):
            calls.append(seconds)
            if calls == [1, 0]:
                raise worker.OutOfTime
            return real(which, seconds, interval)

        calls, real = [], worker.signal.setitimer
        limit = worker.resource.getrlimit(worker.resource.RLIMIT_CPU)
        judge = mock.Mock(decide=lambda reference, answer: ("correct", None))
        with mock.patch.object(worker.signal, "setitimer", stop_late):
            reply = worker.answer_one(judge, {"id": 1, "reference": "1", "answer": "1"}, 1)
        worker.resource.setrlimit(worker.resource.RLIMIT_CPU, limit)
        self.assertEqual(reply, {"id": 1, "verdict": "undecided", "detail": "out of processor time"})
        self.assertEqual(worker.signal.getitimer(worker.signal.ITIMER_PROF), (0.0, 0.0))


class Protocol(unittest.TestCase):
    """One process, as Rust starts it."""

    def talk(self, lines, memory_mib=1024, cpu_s=2):
        command = [sys.executable, "-c", WORKER, str(memory_mib), str(cpu_s)]
        done = subprocess.run(command, input=b"".join(lines), capture_output=True, timeout=120, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_replies_in_order_whatever_comes(self):
        def ask(number, reference, answer, **more):
            return json.dumps({"id": number, "reference": reference, "answer": answer, **more}).encode() + b"\n"

        # `\print` and its kind must not reach the replies either.
        ready, *replies = self.talk(
            [
                ask(1, "1", r"\frac{2}{2}"),
                b"no JSON\n",
                b'{"id": 2}\n',
                b'{"id": 3, "reference": 1, "answer": "1"}\n',
                b'{"id": 4, "reference": "\xff", "answer": "1"}\n',
                ask(5, r"\pi", r"\sum_{k=1}^{10000000000}\sin k"),
                ask(6, "x", "{" * 1500 + "x" + "}" * 1500),
                ask(7, r"\sin 2x", r"2\sin x\cos x"),
                ask(8, r"f(x) = 1", "2x - y = 0"),
                ask(9, r"f(x) = 1", "2x - y = 0", bare=True),
                ask(10, r"8:7:3", r"\frac{8}{21}", bare=True),
                ask(11, r"\pi", "9^{9^{9^9}}", bare=True),
                ask(12, "x", "{" * 1500 + "x" + "}" * 1500, bare=True),
            ]
        )
        self.assertEqual(ready, {"ready": True, "math_verify": "0.9.0"})
        verdicts = ["correct", "error", "error", "error", "undecided", "undecided", "undecided", "correct"]
        verdicts += ["undecided", "incorrect", "correct", "undecided", "undecided"]
        self.assertEqual([reply["verdict"] for reply in replies], verdicts)
        self.assertEqual([reply["id"] for reply in replies], [1, None, None, None, 4, 5, 6, 7, 8, 9, 10, 11, 12])
        self.assertEqual([reply["id"] for reply in replies if reply.get("bare")], [9, 10])
        self.assertEqual(replies[5]["detail"], "out of processor time")

    def test_too_little_memory_is_said(self):
        (reply,) = self.talk([], memory_mib=32)
        self.assertFalse(reply["ready"])
        self.assertIn("MemoryError", reply["detail"])


if __name__ == "__main__":
    unittest.main()
