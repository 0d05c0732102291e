"""Tests of check-modules on small trees: `python3 -m unittest discover -s scripts`."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

MANIFEST = '[workspace]\nmembers = []\n[package]\nname = "hydrant-actors"\n'


def script() -> types.ModuleType:
    path = pathlib.Path(__file__).with_name("check-modules")
    loader = importlib.machinery.SourceFileLoader("check_modules", str(path))
    spec = importlib.util.spec_from_loader("check_modules", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_modules"] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module


check_modules = script()


class Tree(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        self.write({"Cargo.toml": MANIFEST, ".ci/known-circles": ""})

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run_script(self, *arguments: str) -> tuple[int, str]:
        output = io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["check-modules", "--top", str(self.top), *arguments]),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            status = check_modules.main()
        return status, output.getvalue()

    def circles(self, files: dict[str, str]) -> list[set[str]]:
        self.write({f"src/{name}": text for name, text in files.items()})
        found = check_modules.circles(check_modules.arrows(check_modules.read(self.top / "src/lib.rs", self.top, None)))
        return [{file.removeprefix("src/") for file in circle} for circle in found]


class WhatCounts(Tree):
    def test_two_files_that_use_each_others_items(self) -> None:
        for one, other in (
            ("use crate::b::B;", "use super::a::A;"),
            ("use crate::{b::{self, B as Other}};", "fn f() { crate::a::g() }"),
            ("use crate::b; fn f() -> b::B {}", "fn f(_: super::a::A<'_>) {}"),
            ("use crate::b::*;", "use crate::a::A::*;"),
        ):
            with self.subTest(one=one, other=other):
                found = self.circles({"lib.rs": "mod a; mod b;", "a.rs": one, "b.rs": other})
                self.assertEqual(found, [{"a.rs", "b.rs"}])

    def test_three_files_in_a_round_and_one_beside_it(self) -> None:
        files = {"a.rs": "use crate::b::B;", "b.rs": "use crate::c::C;", "c.rs": "use crate::a::A;", "d.rs": "use crate::a::A;"}
        self.assertEqual(self.circles({"lib.rs": "mod a; mod b; mod c; mod d;"} | files), [{"a.rs", "b.rs", "c.rs"}])

    def test_one_way_is_no_circle(self) -> None:
        self.assertEqual(self.circles({"lib.rs": "mod a; mod b;", "a.rs": "use crate::b::B;", "b.rs": "use std::fmt;"}), [])

    def test_a_parent_that_only_declares_and_exports_is_none(self) -> None:
        child = {"m/child.rs": "use super::Parent;"}
        self.assertEqual(self.circles({"lib.rs": "mod m;", "m/mod.rs": "mod child; pub use child::Child; struct Parent;"} | child), [])
        used = "mod child; pub(crate) use child::Child; struct Parent(Child);"
        self.assertEqual(self.circles({"lib.rs": "mod m;", "m/mod.rs": used} | child), [{"m/mod.rs", "m/child.rs"}])

    def test_a_parent_beside_its_folder(self) -> None:
        files = {"m.rs": "mod child; fn f() { child::g() } struct P;", "m/child.rs": "fn g(_: super::P) {}"}
        self.assertEqual(self.circles({"lib.rs": "mod m;"} | files), [{"m.rs", "m/child.rs"}])

    def test_re_exports_are_followed_to_where_the_item_is(self) -> None:
        files = {"m/mod.rs": "mod a; mod b; pub use a::A;", "m/a.rs": "use super::b::B;", "m/b.rs": "use crate::m::A;"}
        self.assertEqual(self.circles({"lib.rs": "mod m; pub use m::A;"} | files), [{"m/a.rs", "m/b.rs"}])

    def test_tests_comments_and_strings_do_not_count(self) -> None:
        for text in (
            "#[cfg(test)] mod tests { use crate::a::A; }",
            "#[cfg(test)]\n#[allow(x)]\npub(crate) fn f() -> crate::a::A { g() }",
            "#[cfg(any(test, feature = \"x\"))] use crate::a::{A, C};",
            "struct S { #[cfg(test)] a: Map<u8, crate::a::A>, b: u8 }",
            "// use crate::a::A;\n/// [`crate::a::A`]\nconst T: &str = \"crate::a::A\"; const C: char = '\"';",
            "const T: &str = r#\"a \" crate::a::A\"#;",
        ):
            with self.subTest(text=text):
                self.assertEqual(self.circles({"lib.rs": "mod a; mod b;", "a.rs": "use crate::b::B;", "b.rs": text}), [])

    def test_what_follows_a_test_item_counts_again(self) -> None:
        for text in (
            "#[cfg(test)] mod tests; use crate::a::A;",
            "struct S { #[cfg(test)] a: Map<u8, B>, b: crate::a::A }",
            "#[cfg(not(test))] use crate::a::A;",
        ):
            with self.subTest(text=text):
                found = self.circles({"lib.rs": "mod a; mod b;", "a.rs": "use crate::b::B;", "b.rs": text})
                self.assertEqual(found, [{"a.rs", "b.rs"}])

    def test_an_exported_macro_is_where_it_is_written(self) -> None:
        files = {"a.rs": "#[macro_export] macro_rules! say { () => { $crate::b::f() } }", "b.rs": "fn f() { crate::say!() } fn g() { crate::say::x() }"}
        self.assertEqual(self.circles({"lib.rs": "mod a; mod b;"} | files), [{"a.rs", "b.rs"}])

    def test_an_inline_module_is_its_file(self) -> None:
        files = {"a.rs": "mod kind { use super::super::b::B; pub const X: u8 = 1; }", "b.rs": "use crate::a::kind::X;"}
        self.assertEqual(self.circles({"lib.rs": "mod a; mod b;"} | files), [{"a.rs", "b.rs"}])


class Baseline(Tree):
    CIRCLE = {"src/lib.rs": "mod a; mod b; mod c;", "src/a.rs": "use crate::b::B;", "src/b.rs": "use crate::a::A;", "src/c.rs": ""}

    def test_a_new_circle_fails_and_a_known_one_does_not(self) -> None:
        self.write(self.CIRCLE)
        status, output = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("a new circle of modules: src/a.rs, src/b.rs", output)
        self.write({".ci/known-circles": "# why\n\nsrc/a.rs\nsrc/b.rs\n"})
        self.assertEqual(self.run_script()[0], 0)

    def test_a_file_that_joins_fails(self) -> None:
        self.write(self.CIRCLE | {".ci/known-circles": "src/a.rs\nsrc/b.rs\n", "src/b.rs": "use crate::c::C;", "src/c.rs": "use crate::a::A;"})
        status, output = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("joins the circle of src/a.rs: src/c.rs", output)

    def test_a_line_that_is_no_longer_true_fails_until_it_is_taken_out(self) -> None:
        self.write(self.CIRCLE | {".ci/known-circles": "src/a.rs\nsrc/b.rs\nsrc/c.rs\n"})
        status, output = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("no longer in a circle: src/c.rs", output)
        self.assertEqual(self.run_script("--shrink")[0], 0)
        self.assertEqual(check_modules.blocks((self.top / ".ci/known-circles").read_text()), [frozenset({"src/a.rs", "src/b.rs"})])

    def test_shrink_adds_nothing(self) -> None:
        self.write(self.CIRCLE)
        self.assertEqual(self.run_script("--shrink")[0], 1)
        self.assertEqual(check_modules.blocks((self.top / ".ci/known-circles").read_text()), [])

    def test_a_circle_that_fell_apart_is_told(self) -> None:
        one, other = frozenset({"a", "b"}), frozenset({"c", "d"})
        self.assertEqual(check_modules.compare([one, other], [one | other]), ([], ["the circle of a is now 2 circles"]))
        new, gone = check_modules.compare([one | other], [one, other])
        self.assertEqual(len(new), 1)


class Layers(Tree):
    def test_a_path_and_a_dependency_that_go_up_fail(self) -> None:
        self.write({"src/lib.rs": "use hydrant_engine::Worker;", "Cargo.toml": MANIFEST + "[dependencies]\nhydrant-engine = {}\n"})
        self.assertEqual(self.run_script()[0], 0)
        self.write({"Cargo.toml": MANIFEST.replace("actors", "protocol") + "[dev-dependencies]\nhydrant-engine = {}\n"})
        status, output = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("Cargo.toml depends on hydrant-engine", output)
        self.assertIn("src/lib.rs:1 names hydrant_engine", output)


class Engine(Tree):
    ENGINE = MANIFEST.replace("actors", "engine")

    def test_what_is_for_drivers_fails_also_in_tests_and_comments(self) -> None:
        for text, word in (
            ("async fn f() {}", "async"),
            ("use std::future::Future;", "Future"),
            ("struct S { waker: std::task::Waker }", "Waker"),
            ("#[cfg(test)] mod tests { fn f() { std::time::Instant::now(); } }", "Instant::now"),
            ("/// By [`SystemTime`].", "SystemTime"),
            ("fn f() -> u64 { rand::random() }", "rand::"),
        ):
            with self.subTest(text=text):
                self.write({"Cargo.toml": self.ENGINE, "src/lib.rs": "mod a;", "src/a/mod.rs": text})
                status, output = self.run_script()
                self.assertEqual(status, 1)
                self.assertIn(f"hydrant-engine: src/a/mod.rs:1 names {word}, which is for drivers", output)

    def test_other_words_and_other_crates_do_not(self) -> None:
        fine = "// asynchronous\nuse std::time::{Duration, Instant}; fn f(now: Instant, brand: u8) -> StoreFuture { operand::x() }"
        self.write({"Cargo.toml": self.ENGINE, "src/lib.rs": fine})
        self.assertEqual(self.run_script()[0], 0)
        self.write({"Cargo.toml": MANIFEST, "src/lib.rs": "async fn f() { rand::random() }"})
        self.assertEqual(self.run_script()[0], 0)

    def test_a_dependency_of_drivers_fails(self) -> None:
        for kind in ("dependencies", "dev-dependencies"):
            with self.subTest(kind=kind):
                self.write({"Cargo.toml": self.ENGINE + f"[{kind}]\ntokio = {{}}\n", "src/lib.rs": ""})
                status, output = self.run_script()
                self.assertEqual(status, 1)
                self.assertIn("hydrant-engine: its Cargo.toml depends on tokio, which is for drivers", output)


class LongFiles(Tree):
    LONG = "// a line\n" * (check_modules.MOST_LINES + 1)

    def test_one_line_too_many_fails_wherever_the_file_is(self) -> None:
        self.write({"src/lib.rs": self.LONG.removesuffix("// a line\n"), "tests/node.rs": "// a line"})
        self.assertEqual(self.run_script()[0], 0)
        self.write({"src/lib.rs": self.LONG, "tests/node/long.rs": self.LONG + "//"})
        status, output = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("src/lib.rs has 501 lines", output)
        self.assertIn("tests/node/long.rs has 502 lines", output)

    def test_what_is_built_or_hidden_does_not_count(self) -> None:
        self.write({"src/lib.rs": "", "target/debug/out.rs": self.LONG, ".work/a.rs": self.LONG, "src/long.txt": self.LONG})
        self.assertEqual(self.run_script()[0], 0)

    def test_a_known_one_is_let_through_until_it_is_short(self) -> None:
        known = ".ci/known-long-files"
        self.write({"src/lib.rs": self.LONG, "src/b.rs": self.LONG, known: "# why\nsrc/b.rs\nsrc/lib.rs\n"})
        self.assertEqual(self.run_script()[0], 0)
        self.write({"src/b.rs": ""})
        status, output = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("src/b.rs is not too long", output)
        self.assertEqual(self.run_script("--shrink")[0], 0)
        self.assertEqual((self.top / known).read_text(), check_modules.LONG_HEADER + "src/lib.rs\n")

    def test_shrink_adds_no_long_file(self) -> None:
        self.write({"src/lib.rs": self.LONG})
        self.assertEqual(self.run_script("--shrink")[0], 1)
        self.assertEqual((self.top / ".ci/known-long-files").read_text(), check_modules.LONG_HEADER)


if __name__ == "__main__":
    unittest.main()
