"""Tests of pairs.py's arithmetic and order of runs: `python3 -m unittest discover -s benches`."""

import argparse
import math
import pathlib
import unittest

import harness
import pairs


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float)
    pairs.arguments(parser)
    options = parser.parse_args(arguments)
    return options, pairs.asked(options, parser)


class Arithmetic(unittest.TestCase):
    def test_seven_values_are_an_interval_and_six_are_too_few(self):
        self.assertEqual(pairs.interval([3, 1, 7, 2, 6, 5, 4]), (1, 7))
        self.assertIsNone(pairs.interval([1, 2, 3, 4, 5, 6]))
        self.assertIsNone(pairs.interval([]))

    def test_more_values_leave_more_out_at_each_end(self):
        # Tables of the sign test: 2 * P(Binomial(15, 1/2) <= 2) is 0.0074, with <= 3 it is 0.035.
        self.assertEqual(pairs.interval(range(15)), (2, 12))
        self.assertEqual(pairs.interval(range(10)), (0, 9))
        self.assertEqual(pairs.interval(range(11)), (1, 9))

    def test_median_and_spread(self):
        self.assertEqual(pairs.shown([1.02, 0.97, 1.0]), ("1.000", "0.970..1.020"))
        self.assertEqual(pairs.shown([0.9, 1.1]), ("1.000", "0.900..1.100"))

    def test_ratios_are_of_one_round(self):
        rounds = [{"A": {"msg/s": 100}, "B": {"msg/s": 98}}, {"A": {"msg/s": 50}, "B": {"msg/s": 51}}]
        self.assertEqual(pairs.ratios(rounds, "msg/s", "B", "A"), [0.98, 1.02])

    def test_verdict(self):
        self.assertEqual(pairs.verdict([0.99] * 7, False, 0.02), "no")
        self.assertEqual(pairs.verdict([0.97] * 7, False, 0.02), "yes")
        self.assertEqual(pairs.verdict([0.99] * 6 + [0.97], False, 0.02), "more pairs")
        self.assertEqual(pairs.verdict([0.97] * 6, False, 0.02), "too few pairs")

    def test_a_greater_latency_is_a_loss(self):
        self.assertEqual(pairs.verdict([1.05] * 7, True, 0.02), "yes")
        self.assertEqual(pairs.verdict([0.9] * 7, True, 0.02), "no")
        self.assertEqual(pairs.verdict([1.05] * 7, False, 0.02), "no")

    def test_four_times_the_pairs_for_twice_the_noise(self):
        small = [0.99, 1 / 0.99] * 4
        great = [ratio ** 2 for ratio in small]
        one, four = (pairs.pairs_needed(noise, 0.02) for noise in (small, great))
        self.assertTrue(3 * one < four <= 4 * one, (one, four))
        # A spread of 10.7 % around nothing, and a loss of 2 %: (2.33 * 1.2533 * 0.1069 / 0.0202) ^ 2.
        self.assertEqual(pairs.pairs_needed([math.exp(0.1), math.exp(-0.1)] * 4, 0.02), 239)
        self.assertEqual(pairs.pairs_needed([1.0, 1.0], 0.02), 0)
        self.assertIsNone(pairs.pairs_needed([1.01], 0.02))


class Runs(unittest.TestCase):
    BINARIES = {"A": pathlib.Path("before"), "B": pathlib.Path("now"), "A again": pathlib.Path("before")}

    def test_the_sides_take_turns_and_each_begins_as_often(self):
        before, ran = harness.BROKER, []

        def measure():
            ran.append(str(harness.BROKER))
            return [pairs.Figure("msg/s", len(ran))], ["one lost"] if len(ran) == 3 else []

        found = list(pairs.rounds(pairs.Row("row", measure), self.BINARIES, 3))
        self.assertEqual(harness.BROKER, before)
        # The first is not counted.
        self.assertEqual(ran, ["before", "before", "now", "before", "now", "before", "before", "before", "before", "now"])
        self.assertEqual([set(values) for values, _, _ in found], [set(self.BINARIES)] * 3)
        self.assertEqual(found[1][0], {"B": {"msg/s": 5}, "A again": {"msg/s": 6}, "A": {"msg/s": 7}})
        self.assertEqual([problems for _, _, problems in found], [{"B: one lost"}, set(), set()])

    def test_a_figure_of_nothing_ends_the_row(self):
        row = pairs.Row("row", lambda: ([pairs.Figure("msg/s", 0)], []))
        with self.assertRaises(harness.Failure):
            list(pairs.rounds(row, self.BINARIES, 1))

    def test_lines_have_the_heading_s_columns(self):
        options, _ = parsed("--noise")
        figures = [pairs.Figure("msg/s", 0), pairs.Figure("p99, ms", 0, less=True)]
        for sides in (["A", "B", "A again"], ["A", "A again"]):
            measured = [{side: {"msg/s": 10, "p99, ms": 2} for side in sides}] * 7
            binaries = {side: pathlib.Path(__file__) for side in sides}
            columns = pairs.heading(binaries, options)[-2].count("|")
            lines = list(pairs.lines("row", measured, figures, sides, options.bound))
            self.assertEqual([line.count("|") for line, _ in lines], [columns] * 2)
            self.assertEqual([told for _, told in lines], ["no" if "B" in sides else None] * 2)


class Options(unittest.TestCase):
    def test_defaults_of_pairs_and_of_none(self):
        options, asked = parsed("--noise")
        self.assertTrue(asked)
        self.assertEqual((options.pairs, options.bound, options.seconds, options.runs), (7, 0.02, 2, 1))
        options, asked = parsed()
        self.assertFalse(asked)
        self.assertIsNone(options.seconds)


if __name__ == "__main__":
    unittest.main()
