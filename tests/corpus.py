"""Edge cases of JSON: payloads by name, each with the expected result of landing it as the body of a record.

"lands": jsonb holds the same value. A list: it lands with these repairs, and the exact bytes are kept. Otherwise the
reason of its quarantine entry, with the byte offset if there is one. Belongs here: bytes. Not here: landing them.
"""

import io
from collections.abc import Iterable, Mapping

NUL = "NUL character replaced"
LONE = "lone surrogate replaced"
TWICE = "duplicate key: last one kept"
BYTES = "invalid UTF-8 replaced"
BEYOND = "number beyond numeric's range kept as text"
MARK = "byte-order mark removed"


def no_number(name: str) -> str:
    return f"{name} is not a JSON number: kept as text"


def deep(opening: bytes, closing: bytes, times: int, inner: bytes = b"1") -> bytes:
    return b'{"a": ' + opening * times + inner + closing * times + b"}"


Vectors = Mapping[str, tuple[bytes, str | list[str]]]

SHAPES: Vectors = {
    "an empty object": (b"{}", "lands"),
    "an empty key and an empty string": (b'{"": ""}', "lands"),
    "an empty key in an empty key": (b'{"": {"": {"": null}}}', "lands"),
    "space around everything": (b' \r\n{ "a"\t: [ 1 , 2 ] }\n ', "lands"),
    "every kind of value": (b'{"a": [null, true, false, 0, -1.5e3, "", {}, []]}', "lands"),
    "keys in no order": (b'{"z": 1, "a": 2, "m": 3, "aa": 4, "Z": 5}', "lands"),
    "keys that differ in case": (b'{"Key": 1, "key": 2, "KEY": 3}', "lands"),
    "keys that differ in a space": (b'{"a": 1, "a ": 2, " a": 3}', "lands"),
    "keys that differ in how an accent is composed": ('{"\u00e9": 1, "e\u0301": 2}'.encode(), "lands"),
    "keys that are not ASCII": ('{"\u043a\u043b\u044e\u0447": "\u00f1", "\N{GRINNING FACE}": 1}'.encode(), "lands"),
    "keys that mean something elsewhere": (
        b'{"__proto__": {"a": 1}, "constructor": 2, "toString": 3, "hasOwnProperty": 4, "$ref": "#", "@type": 5}',
        "lands",
    ),
    "keys that are numbers, words and paths": (
        b'{"1": 1, "01": 2, "true": 3, "null": 4, "a.b": 5, "$.a[*]": 6, "a b": 7}',
        "lands",
    ),
    "keys with quotes and backslashes": (rb'{"\"": 1, "\\": 2, "\\\"": 3, "\/": 4}', "lands"),
    "keys with control characters": (rb'{"\b\f\n\r\t": 1, "\u0001\u001f": 2}', "lands"),
    "20,000 keys": (b"{" + b",".join(b'"key %d": %d' % (each, each) for each in range(20_000)) + b"}", "lands"),
    "20,000 keys, one of them twice": (
        b"{" + b",".join(b'"key %d": %d' % (each, each) for each in [*range(20_000), 7]) + b"}",
        [TWICE],
    ),
    "20,000 elements": (b'{"a": [' + b",".join(b"%d" % each for each in range(20_000)) + b"]}", "lands"),
    "20,000 empty objects": (b'{"a": [' + b",".join([b"{}"] * 20_000) + b"]}", "lands"),
    "a key of 64 kB": (b'{"' + b"k" * 65_536 + b'": 1}', "lands"),
    "two keys of 64 kB that differ at the end": (
        b'{"' + b"k" * 65_536 + b'1": 1, "' + b"k" * 65_536 + b'2": 2}',
        "lands",
    ),
    "a key of 64 kB twice": (b'{"' + b"k" * 65_536 + b'": 1, "' + b"k" * 65_536 + b'": 2}', [TWICE]),
    "a key of 64 kB that is not ASCII": (('{"' + "\u00e9" * 32_768 + '": 1}').encode(), "lands"),
    "a string of 5 MB": (b'{"a": "' + b"text " * 1_000_000 + b'"}', "lands"),
    "a string of escapes": (b'{"a": "' + rb"\n\"\\" * 10_000 + b'"}', "lands"),
    "strings that look like other values": (b'{"a": ["1", "1.0", "true", "null", "{}", "[1]", "NaN"]}', "lands"),
    "a string that is a JSON text": (rb'{"a": "{\"b\": 1, \"b\": 2}"}', "lands"),
    "a string that looks like a duplicate key": (rb'{"a": "\"a\":", "b": "\"a\": \"a\":"}', "lands"),
    "what COPY takes for its own": (rb'{"a": "\\N", "b": "\\.", "c": "\t\\t", "d": "a\\\\b"}', "lands"),
    "the end of COPY in a line of its own": (b'{"a":\n"\\\\."\n}', "lands"),
}

CHARACTERS: Vectors = {
    "one character by two escapes": (rb'{"a": "\ud83d\ude00"}', "lands"),
    "one character by two escapes in upper case": (rb'{"a": "\uD83D\uDE00"}', "lands"),
    "the last character there is, as escapes": (rb'{"a": "\udbff\udfff"}', "lands"),
    "the last character there is": ('{"a": "\U0010ffff"}'.encode(), "lands"),
    "the text backslash u0000": (rb'{"a": "\\u0000"}', "lands"),
    "the text backslash backslash u0000": (rb'{"a": "\\\\u0000"}', "lands"),
    "the text backslash ud83d": (rb'{"a": "\\ud83d"}', "lands"),
    "the text u0000": (rb'{"a": "u0000", "u0000": "0000"}', "lands"),
    "a backslash and NUL": (rb'{"a": "\\\u0000"}', [NUL]),
    "a quote written as an escape": (rb'{"a\u0022:": "\u0022:"}', "lands"),
    "a backslash written as an escape": (rb'{"a": "\u005cu0000"}', "lands"),
    "every short escape": (rb'{"a": "\"\\\/\b\f\n\r\t"}', "lands"),
    "control characters as escapes": (
        b'{"a": "' + b"".join(b"\\u%04x" % each for each in range(1, 32)) + b'"}',
        "lands",
    ),
    "delete and the controls after it": ('{"a": "\x7f\x80\x9f"}'.encode(), "lands"),
    "line and paragraph separators": ('{"a": "\u2028\u2029", "\u2028": 1}'.encode(), "lands"),
    "separators as escapes": (rb'{"a": "\u2028\u2029\u0085"}', "lands"),
    "noncharacters": ('{"a": "\ufffe\uffff\ufdd0\U0001fffe"}'.encode(), "lands"),
    "noncharacters as escapes": (rb'{"a": "\ufffe\uffff\ufdd0"}', "lands"),
    "the replacement character": ('{"a": "\ufffd", "\ufffd": 1}'.encode(), "lands"),
    "private characters": ('{"a": "\ue000\U000f0000"}'.encode(), "lands"),
    "a byte order mark inside a string": ('{"a": "\ufeffb"}'.encode(), "lands"),
    "a family of emoji by zero-width joiners": (
        '{"a": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"}'.encode(),
        "lands",
    ),
    "flags, skin tones and variation selectors": (
        '{"a": "\U0001f1e9\U0001f1ea\U0001f44d\U0001f3fd\u2764\ufe0f"}'.encode(),
        "lands",
    ),
    "text from right to left with marks": ('{"a": "\u202e\u05e9\u05dc\u05d5\u05dd\u202c\u200f"}'.encode(), "lands"),
    "fifty accents on a letter": (('{"a": "e' + "\u0301" * 50 + '"}').encode(), "lands"),
    "spaces of every kind inside a string": ('{"a": "\u00a0\u1680\u2003\u200b\u202f\u3000"}'.encode(), "lands"),
    "a NUL character": (rb'{"a": "x\u0000y"}', [NUL]),
    "a NUL character alone": (rb'{"a": "\u0000"}', [NUL]),
    "a NUL character in a key": (rb'{"\u0000": 1}', [NUL]),
    "a NUL character and its replacement as keys": ('{"\\u0000": 1, "\ufffd": 2}'.encode(), [NUL, TWICE]),
    "10,000 NUL characters": (b'{"a": "' + rb"\u0000" * 10_000 + b'"}', [NUL]),
    "a NUL character deep inside": (rb'{"a": [{"b": [{"c": ["\u0000"]}]}]}', [NUL]),
    "a high surrogate": (rb'{"a": "\ud83d"}', [LONE]),
    "a low surrogate": (rb'{"a": "\ude00"}', [LONE]),
    "a high surrogate in a key": (rb'{"\ud83d": 1}', [LONE]),
    "two lone surrogates as keys": (rb'{"\ud83d": 1, "\ud83e": 2}', [LONE, TWICE]),
    "a surrogate pair the wrong way round": (rb'{"a": "\ude00\ud83d"}', [LONE]),
    "two high surrogates and a low one": (rb'{"a": "\ud83d\ud83d\ude00"}', [LONE]),
    "a pair and a low surrogate": (rb'{"a": "\ud83d\ude00\ude00"}', [LONE]),
    "a surrogate pair with a letter between": (rb'{"a": "\ud83dx\ude00"}', [LONE]),
    "a surrogate pair with a NUL between": (rb'{"a": "\ud83d\u0000\ude00"}', [NUL, LONE]),
    "a high surrogate before an escaped quote": (rb'{"a": "\ud83d\""}', [LONE]),
    "halves of a pair in two strings": (rb'{"a": ["\ud83d", "\ude00"]}', [LONE]),
    "first and last surrogates": (rb'{"a": ["\ud800", "\udbff", "\udc00", "\udfff"]}', [LONE]),
}

ENCODINGS: Vectors = {
    "a Latin-1 character": (b'{"a": "caf\xe9"}', [BYTES]),
    "a Latin-1 character in a key": (b'{"caf\xe9": 1}', [BYTES]),
    "two keys of different wrong bytes": (b'{"\xe9": 1, "\xe8": 2}', [BYTES, TWICE]),
    "a character of two bytes cut": (b'{"a": "\xc3"}', [BYTES]),
    "a character of three bytes cut": (b'{"a": "\xe2\x82"}', [BYTES]),
    "a character of four bytes cut": (b'{"a": "\xf0\x9f\x98"}', [BYTES]),
    "a continuation byte alone": (b'{"a": "\x80"}', [BYTES]),
    "a slash in two bytes": (b'{"a": "\xc0\xaf"}', [BYTES]),
    "NUL in two bytes": (b'{"a": "\xc0\x80"}', [BYTES]),
    "an overlong character of three bytes": (b'{"a": "\xe0\x80\xaf"}', [BYTES]),
    "an overlong character of four bytes": (b'{"a": "\xf0\x82\x82\xac"}', [BYTES]),
    "a quote in two bytes": (b'{"a": "\xc0\xa2"}', [BYTES]),
    "a character beyond the last": (b'{"a": "\xf4\x90\x80\x80"}', [BYTES]),
    "a character of five bytes": (b'{"a": "\xf8\x88\x80\x80\x80"}', [BYTES]),
    "bytes that are never UTF-8": (b'{"a": "\xfe\xff"}', [BYTES]),
    "a high surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}', [BYTES]),
    "a low surrogate in UTF-8": (b'{"a": "\xed\xbf\xbf"}', [BYTES]),
    "a surrogate pair in UTF-8 (CESU-8)": (b'{"a": "\xed\xa0\xbd\xed\xb8\x80"}', [BYTES]),
    "a wrong byte after half of an escaped pair": (b'{"a": "\\ud83d\xb8"}', [BYTES, LONE]),
    "a wrong byte and half of a pair": (b'{"a": "\xff", "b": "\\udcff"}', [BYTES, LONE]),
    "a wrong byte outside a string": (b'{"a": \xff1}', "not_json at 6"),
    "a wrong byte at the end": (b'{"a": 1}\xff', "not_json at 8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", [MARK]),
    "a byte order mark and NUL": (b'\xef\xbb\xbf{"a": "\\u0000"}', [MARK, NUL]),
    "a byte order mark before what is no JSON": (b'\xef\xbb\xbf{"a": 01}', "not_json at 10"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "not_json at 3"),
    "two byte order marks": (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not_json at 3"),
    "a byte order mark after a space": (b" \xef\xbb\xbf{}", "not_json at 1"),
    "a byte order mark at the end": (b"{}\xef\xbb\xbf", "not_json at 2"),
    "half of a byte order mark": (b"\xef\xbb{}", "not_json at 0"),
    "UTF-16 with its mark": ('{"a": 1}'.encode("utf-16"), "not_json at 0"),
    "UTF-16, little end first": ('{"a": 1}'.encode("utf-16-le"), "not_json at 1"),
    "UTF-16, big end first": ('{"a": 1}'.encode("utf-16-be"), "not_json at 0"),
    "UTF-32 with its mark": ('{"a": 1}'.encode("utf-32"), "not_json at 0"),
    "UTF-32, little end first": ('{"a": 1}'.encode("utf-32-le"), "not_json at 1"),
    "UTF-32, big end first": ('{"a": 1}'.encode("utf-32-be"), "not_json at 0"),
    "UTF-7": (b"+AHsAIgBhACI-: 1}", "not_json at 0"),
    "EBCDIC": ('{"a": 1}'.encode("cp500"), "not_json at 0"),
    "packed with gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00C\xbf\xa6\xa3", "not_json at 0"),
}

FAITHFUL: Vectors = {
    name: (b'{"a": ' + literal + b"}", "lands")
    for name, literal in {
        "zero": b"0",
        "minus zero": b"-0",
        "minus zero with a fraction": b"-0.0",
        "zero with an exponent": b"0e0",
        "zero with a large exponent": b"0e1000",
        "one": b"1",
        "one with a fraction": b"1.0",
        "one with many zeros": b"1.000000000000000000000000000000",
        "one with an exponent": b"1e0",
        "an exponent in upper case with a plus": b"1E+2",
        "an exponent with zeros before it": b"1e0000000000000000002",
        "a negative exponent with zeros before it": b"1e-0000000000000000002",
        "the largest int4": b"2147483647",
        "beyond int4": b"2147483648",
        "below int4": b"-2147483649",
        "the largest integer a double holds": b"9007199254740992",
        "an integer that a double does not hold": b"9007199254740993",
        "the largest int8": b"9223372036854775807",
        "beyond int8": b"9223372036854775808",
        "the smallest int8": b"-9223372036854775808",
        "below int8": b"-9223372036854775809",
        "the largest unsigned int8": b"18446744073709551615",
        "beyond unsigned int8": b"18446744073709551616",
        "beyond 128 bits": b"340282366920938463463374607431768211457",
        "a tenth": b"0.1",
        "a sum that a double gets wrong": b"0.30000000000000004",
        "thirty digits after the point": b"3.141592653589793238462643383279",
        "the smallest double": b"5e-324",
        "smaller than any double": b"4e-324",
        "the largest double": b"1.7976931348623157e308",
        "just beyond a double": b"1.7976931348623159e308",
        "a number beyond a double": b"1e400",
        "minus a number beyond a double": b"-1e400",
        "a number smaller than a double": b"1e-4000",
        "the largest number numeric holds": b"9e131071",
        "the smallest number numeric holds": b"1e-16383",
        "an integer of 4,300 digits": b"7" * 4_300,
        "an integer of 4,301 digits": b"7" * 4_301,
        "an integer of 10,000 digits": b"7" * 10_000,
        "minus an integer of 10,000 digits": b"-" + b"7" * 10_000,
        "an integer of 131,072 digits": b"7" * 131_072,
        "a fraction of 10,000 digits": b"0." + b"7" * 10_000,
        "a fraction of 16,383 digits": b"0." + b"7" * 16_383,
        "10,000 zeros after a one": b"1" + b"0" * 10_000,
        "10,000 zeros before a one": b"0." + b"0" * 10_000 + b"1",
    }.items()
}

OUT_OF_RANGE: Vectors = {
    name: (b'{"a": ' + literal + b"}", [repaired])
    for name, literal, repaired in (
        ("1e400000", b"1e400000", BEYOND),
        ("-1e400000", b"-1e400000", BEYOND),
        ("1e-400000", b"1e-400000", BEYOND),
        ("1e131072", b"1e131072", BEYOND),
        ("1e-16384", b"1e-16384", BEYOND),
        ("1e-20000", b"1e-20000", BEYOND),
        ("an exponent of 20 digits", b"1e99999999999999999999", BEYOND),
        ("a negative exponent of 20 digits", b"1e-99999999999999999999", BEYOND),
        ("zero with a small exponent", b"0e-20000", BEYOND),
        ("an exponent of 10,000 digits", b"1e" + b"9" * 10_000, BEYOND),
        ("a fraction of 17,000 digits", b"0." + b"7" * 17_000, BEYOND),
        ("an integer of 131,073 digits", b"7" * 131_073, BEYOND),
        ("an integer of 200,000 digits", b"7" * 200_000, BEYOND),
        ("NaN", b"NaN", no_number("NaN")),
        ("infinity", b"Infinity", no_number("Infinity")),
        ("minus infinity", b"[-Infinity]", no_number("-Infinity")),
    )
}

NO_NUMBERS: Vectors = {
    name: (b'{"a": ' + literal + b"}", f"not_json at {offset}")
    for name, literal, offset in (
        ("a leading zero", b"01", 7),
        ("a leading zero after a minus", b"-01", 8),
        ("two zeros", b"00", 7),
        ("a plus sign", b"+1", 6),
        ("two minus signs", b"--1", 6),
        ("a minus sign alone", b"-", 6),
        ("a point at the beginning", b".5", 6),
        ("a point at the end", b"5.", 7),
        ("two points", b"1.2.3", 9),
        ("an exponent without digits", b"1e", 7),
        ("an exponent with a sign alone", b"1e+", 7),
        ("an exponent with a fraction", b"1e1.5", 9),
        ("a hexadecimal number", b"0x1F", 7),
        ("an octal number", b"0o17", 7),
        ("a binary number", b"0b11", 7),
        ("a number with separators", b"1_000", 7),
        ("a decimal comma", b"1,5", 8),
        ("nan in lower case", b"nan", 6),
        ("minus NaN", b"-NaN", 6),
        ("inf", b"inf", 6),
        ("a number with a suffix", b"1n", 7),
        ("digits that are not ASCII", "\u0661\u0662".encode(), 6),
        ("digits of full width", "\uff11".encode(), 6),
    )
}

TOLD_TWICE: Vectors = {
    "a key twice": (b'{"a": 1, "a": 2}', [TWICE]),
    "a key twice with the same value": (b'{"a": 1, "a": 1}', [TWICE]),
    "a key twice without any space": (b'{"a":1,"a":2}', [TWICE]),
    "a key a thousand times": (b"{" + b",".join(b'"a":%d' % each for each in range(1_000)) + b"}", [TWICE]),
    "an empty key twice": (b'{"": 1, "": 2}', [TWICE]),
    "a key twice, deep inside": (b'{"x": [[{"a": 1, "b": 0, "a": 2}]]}', [TWICE]),
    "a key twice, first an object and then null": (b'{"a": {"b": 1}, "a": null}', [TWICE]),
    "a key twice inside a key twice": (b'{"a": {"b": 1, "b": 2}, "a": {"c": 1, "c": 2}}', [TWICE]),
    "a key twice in what is dropped alone": (b'{"a": {"b": 1, "b": 2}, "a": 3}', [TWICE]),
    "a key twice in the last of many objects": (b'{"x": [' + b'{"a": 1},' * 500 + b'{"a": 1, "a": 1}]}', [TWICE]),
    "a key twice, once as an escape": (rb'{"a": 1, "\u0061": 2}', [TWICE]),
    "a key twice, as two escapes": (rb'{"\u00e9": 1, "\u00E9": 2}', [TWICE]),
    "a key twice, once as two escapes": ('{"\U0001f600": 1, "\\ud83d\\ude00": 2}'.encode(), [TWICE]),
    "a key twice, once with an escaped slash": (rb'{"/": 1, "\/": 2}', [TWICE]),
    "a key twice beside a space before a colon": (b'{"a" : 1, "a": 2}', [TWICE]),
    "a key twice beside a line break before a colon": (b'{"a"\r\n\t:1,"a":2}', [TWICE]),
    "a key twice beside an escaped quote": (rb'{"a":1,"a":2,"b":"\u0022:"}', [TWICE]),
    "a key twice beside an escaped colon": (rb'{"a":1,"a":2,"b":"\u003a"}', [TWICE]),
    "a key twice beside an escaped colon in upper case": (rb'{"a":1,"a":2,"b":"\"\u003A"}', [TWICE]),
    "a key twice beside a string that looks like a key": (rb'{"a":1,"a":2,"b":"\":"}', [TWICE]),
    "four faults at once": (
        b'{"a": NaN, "a": "\\u0000", "b": "\xff"}',
        [NUL, no_number("NaN"), TWICE, BYTES],
    ),
    "a NUL character, and a number that is too large": (rb'{"a": "\u0000", "b": 1e400000}', [NUL, BEYOND]),
    "seven faults at once": (
        b'\xef\xbb\xbf{"a": NaN, "a": "\\u0000", "b": "\xff", "c": "\\ud800", "d": 1e400000, "e": -Infinity}',
        [MARK, NUL, no_number("NaN"), no_number("-Infinity"), TWICE, BYTES, LONE, BEYOND],
    ),
}

DEPTHS: Vectors = {
    "200 lists in each other": (deep(b"[", b"]", 200), "lands"),
    "200 objects in each other": (deep(b'{"a":', b"}", 200), "lands"),
    "400 lists and objects in each other": (deep(b'[{"a":', b"}]", 200), "lands"),
    "400 lists around a duplicate key": (deep(b"[", b"]", 400, b'{"a":1,"a":2}'), [TWICE]),
    "900 lists in each other": (deep(b"[", b"]", 900), "lands"),
    "900 lists around a number beyond numeric's range": (deep(b"[", b"]", 900, b"1e400000"), [BEYOND]),
    "900 lists around NUL": (deep(b"[", b"]", 900, rb'"\u0000"'), [NUL]),
    "10,000 lists in each other": (deep(b"[", b"]", 10_000), "too_deep"),
    "10,000 objects in each other": (deep(b'{"a":', b"}", 10_000), "too_deep"),
    "10,000 lists and objects in each other": (deep(b'[{"a":', b"}]", 5_000), "too_deep"),
    "100,000 lists in each other": (deep(b"[", b"]", 100_000), "too_deep"),
    "100,000 lists that nobody closes": (b"[" * 100_000, "too_deep"),
    "100,000 objects that nobody closes": (b'{"a":' * 100_000, "too_deep"),
}

NOT_JSON: Vectors = {
    "nothing": (b"", "not_json at 0"),
    "only space": (b" \n\t", "not_json at 3"),
    "a zero byte": (b"\x00", "not_json at 0"),
    "a zero byte at the end": (b"{}\x00", "not_json at 2"),
    "a zero byte inside a string": (b'{"a": "x\x00y"}', "not_json at 8"),
    "a form feed around": (b"\x0c{}", "not_json at 0"),
    "a vertical tab inside": (b'{\x0b"a": 1}', "not_json at 1"),
    "a space that is not ASCII": ('{\u00a0"a": 1}'.encode(), "not_json at 1"),
    "a line separator between values": ('{"a":\u20281}'.encode(), "not_json at 5"),
    "two documents": (b'{"a":1}{"a":2}', "not_json at 7"),
    "two documents with a space between": (b'{"a":1} {"a":2}', "not_json at 8"),
    "two documents with a comma between": (b'{"a":1},{"a":2}', "not_json at 7"),
    "two documents on two lines": (b'{"a":1}\n{"a":2}', "not_json at 8"),
    "a comma at the end": (b'{"a":1},', "not_json at 7"),
    "a comma too many": ('{"\u00e9": [1,]}'.encode(), "not_json at 10"),
    "a comma too many in an object": (b'{"a": 1,}', "not_json at 8"),
    "a comma alone": (b"{,}", "not_json at 1"),
    "two commas": (b'{"a": [1,,2]}', "not_json at 9"),
    "no comma": (b'{"a": 1 "b": 2}', "not_json at 8"),
    "no colon": (b'{"a" 1}', "not_json at 5"),
    "two colons": (b'{"a":: 1}', "not_json at 5"),
    "no value": (b'{"a": }', "not_json at 6"),
    "a comment at the end": (b"{} // that is all", "not_json at 3"),
    "a comment inside": (b'{/* which */ "a": 1}', "not_json at 1"),
    "a comment with a hash": (b"# a comment\n{}", "not_json at 0"),
    "single quotes": (b"{'a': 1}", "not_json at 1"),
    "quotes of a word processor": ("{\u201ca\u201d: 1}".encode(), "not_json at 1"),
    "a key without quotes": (b"{a: 1}", "not_json at 1"),
    "a key that is a number": (b"{1: 1}", "not_json at 1"),
    "a value without quotes": (b'{"a": text}', "not_json at 6"),
    "true as Python writes it": (b'{"a": True}', "not_json at 6"),
    "none as Python writes it": (b'{"a": None}', "not_json at 6"),
    "undefined": (b'{"a": undefined}', "not_json at 6"),
    "a word that begins well": (b'{"a": truer}', "not_json at 10"),
    "cut in the middle": (b'{"a": [1, 2', "not_json at 11"),
    "cut inside a string": (b'{"a": "text', "not_json at 6"),
    "cut inside an escape": (rb'{"a": "\u00', "not_json at 8"),
    "cut after a backslash": (b'{"a": "x\\', "not_json at 6"),
    "cut inside a word": (b'{"a": tru', "not_json at 6"),
    "a brace too many": (b"{}}", "not_json at 2"),
    "a bracket for a brace": (b'{"a": 1]', "not_json at 7"),
    "only a brace": (b"{", "not_json at 1"),
    "only a quote": (b'"', "not_json at 0"),
    "a line break inside a string": (b'{"a": "x\ny"}', "not_json at 8"),
    "a tab inside a string": (b'{"a": "x\ty"}', "not_json at 8"),
    "an escape character inside a string": (b'{"a": "\x1b[0m"}', "not_json at 7"),
    "an unknown escape": (rb'{"a": "\x41"}', "not_json at 7"),
    "an escape of three digits": (rb'{"a": "\u041"}', "not_json at 8"),
    "an escape with a sign": (rb'{"a": "\u+041"}', "not_json at 8"),
    "an escape in braces": (rb'{"a": "\u{41}"}', "not_json at 8"),
    "an HTML page": (b"<html>502 Bad Gateway</html>", "not_json at 0"),
    "a header before the body": (b"HTTP/1.1 200 OK\r\n\r\n{}", "not_json at 0"),
    "a guard against scripts": (b")]}',\n{}", "not_json at 0"),
    "JSON in a call": (b'callback({"a": 1});', "not_json at 0"),
    "YAML": (b"a: 1\nb: 2\n", "not_json at 0"),
    "MessagePack": (b"\x81\xa1a\x01", "not_json at 0"),
    "an event of a stream": (b'data: {"a": 1}', "not_json at 0"),
    "a record separator before it": (b'\x1e{"a": 1}', "not_json at 0"),
}

LONE_VALUES: Vectors = {
    "a number": (b"5", "wrong_type"),
    "a number of 10,000 digits": (b"7" * 10_000, "wrong_type"),
    "a string": (b'"text"', "wrong_type"),
    "an empty string": (b'""', "wrong_type"),
    "null": (b"null", "wrong_type"),
    "true": (b"true", "wrong_type"),
    "an empty list": (b"[]", "wrong_type"),
    "a list": (b"[{}]", "wrong_type"),
    "NaN alone": (b"NaN", "wrong_type"),
    "a NUL character in a lone string": (rb'"\u0000"', "wrong_type"),
}

EVERY: Iterable[Vectors] = (
    SHAPES,
    CHARACTERS,
    ENCODINGS,
    FAITHFUL,
    OUT_OF_RANGE,
    NO_NUMBERS,
    TOLD_TWICE,
    DEPTHS,
    NOT_JSON,
    LONE_VALUES,
)

VECTORS: Vectors = {name: vector for vectors in EVERY for name, vector in vectors.items()}

LARGE: Mapping[str, tuple[bytes, bytes, bytes]] = {
    "a string with a NUL character": (rb'{"n": %d, "a": "\u0000', b"text ", b'"}'),
    "a string with half of a pair": (rb'{"n": %d, "a": "\ud83d', b"text ", b'"}'),
    "a string with a wrong byte": (b'{"n": %d, "a": "\xff', b"text ", b'"}'),
    "a string behind a byte order mark": (b'\xef\xbb\xbf{"n": %d, "a": "', b"text ", b'"}'),
    "a string with a character of four bytes": ('{"n": %d, "a": "\N{GRINNING FACE}'.encode(), b"text ", b'"}'),
    "a string of line breaks": (b'{"n": %d, "a": "', rb"text\n", b'"}'),
    "small numbers": (b'{"n": %d, "a": [1', b",12345678901", b"]}"),
    "small objects": (b'{"n": %d, "a": [1', b',{"a":1}', b"]}"),
    "small objects and a NUL character": (rb'{"n": %d, "a": ["\u0000"', b',{"a":1}', b"]}"),
    "small objects and a duplicate key": (b'{"n": %d, "n": 1, "a": [1', b',{"a":1}', b"]}"),
    "small objects, cut": (b'{"n": %d, "a": [1', b',{"a":1}', b""),
}
"""How large payloads begin (with their number), go on and end."""


def large(name: str, size: int, number: int) -> bytes:
    """Made without a second copy of it."""
    opening, unit, closing = LARGE[name]
    text = io.BytesIO()
    text.write(opening % number)
    for _ in range(size // (1_000 * len(unit))):
        text.write(1_000 * unit)
    text.write(closing)
    return text.getvalue()
