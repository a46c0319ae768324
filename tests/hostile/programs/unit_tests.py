import doctest, io, os, sys, tempfile, unittest
from unittest import mock

def add(a, b):
    """
    >>> add(1, 2)
    3
    >>> add(1, "2")
    Traceback (most recent call last):
    TypeError: unsupported operand type(s) for +: 'int' and 'str'
    """
    return a + b

class Cases(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
    def test_adds(self):
        self.assertEqual(add(1, 2), 3)
    def test_fails(self):
        self.assertEqual({"a": [1, 2]}, {"a": [1, 3]})
    def test_raises(self):
        with self.assertRaisesRegex(TypeError, "unsupported"):
            add(1, "2")
    @unittest.skip("not today")
    def test_skipped(self):
        pass
    def test_parts(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)
    def test_errors(self):
        raise OSError("broken")
    @mock.patch("os.getcwd", return_value="/mocked")
    def test_mocked(self, getcwd):
        self.assertEqual(os.getcwd(), "/mocked")
        getcwd.assert_called_once_with()
    def test_logs(self):
        import logging
        with self.assertLogs("x", "INFO") as logs:
            logging.getLogger("x").info("said")
        self.assertEqual(logs.output, ["INFO:x:said"])
    def test_prints(self):
        with mock.patch("sys.stdout", new_callable=io.StringIO) as out:
            print("hidden")
        self.assertEqual(out.getvalue(), "hidden\n")
        print("shown")

class Async(unittest.IsolatedAsyncioTestCase):
    async def test_awaits(self):
        import asyncio
        self.assertEqual(await asyncio.sleep(0, 1), 1)

text = io.StringIO()
result = unittest.TextTestRunner(stream=text, verbosity=2).run(unittest.defaultTestLoader.loadTestsFromTestCase(Cases))
print("\n".join(line for line in text.getvalue().splitlines() if not line.startswith("Ran ")))
print(result.testsRun, len(result.failures), len(result.errors), len(result.skipped))
print(doctest.testmod())
program = unittest.main(argv=["me", "Async"], exit=False, verbosity=0, testRunner=unittest.TextTestRunner(stream=io.StringIO()))
print(program.result.wasSuccessful(), program.result.testsRun)
unittest.main(argv=["me", "Cases.test_adds", "Cases.test_logs"], testRunner=unittest.TextTestRunner(stream=io.StringIO()))
