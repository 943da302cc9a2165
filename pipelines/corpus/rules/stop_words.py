"""Function words of languages, if known; almost all running text in a language contains some.

Each language has about ten of its most frequent articles, pronouns, prepositions and conjunctions.
Lists of names, prices or keywords lack them. Chinese and Japanese ones are single letters, as
`words` cuts them without a segmenter.
"""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from mswitch.pipelines.corpus.rules.list_files import read_table
from mswitch.pipelines.corpus.rules.words import cut

STOP_WORDS = MappingProxyType(
    {
        "af": "die van en in is het nie om dat met vir wat",
        "ar": "في من على إلى أن التي عن مع هذا هذه ما لا",
        "bg": "на и за да се от в не са по като с",
        "bs": "i u je na da se za su od s kao koji",
        "ca": "de la i que el a en per un amb del els",
        "cs": "a se na v je že s to z do o pro",
        "da": "og i at det er en til af på for med den",
        "de": "der die und das in ist zu den von mit nicht ein",
        "el": "και το να του η της με την που για από ο",
        "en": "the be to of and that have with in is for a",
        "es": "de la que el en y a los del se con por",
        "et": "ja on ei et see ka oli mis kui ta aga või",
        "eu": "eta da du bat ez dira izan zen ere baina dute hau",
        "fa": "و در به از که این را با است برای آن یک",
        "fi": "ja on ei että se oli hän mutta myös kun ovat tai",
        "fr": "de la le et les des en un du une que est",
        "gl": "de a o que e do da en un para os unha",
        "hi": "के का की में है और को से यह पर नहीं कि",
        "hr": "i u je na da se za su od s kao koji",
        "hu": "a az és hogy nem is egy van volt meg de csak",
        "hy": "և է են որ մեջ այս ու եմ համար չի",
        "id": "yang dan di ini itu dengan untuk dari tidak dalam pada akan",
        "it": "di e la il che in a per un del non è",
        "iw": "של את על לא זה עם הוא היא כי גם או אל",
        "ja": "の は に を が と で",
        "ka": "და არის რომ ეს არ თუ იყო ამ მისი რა",
        "lt": "ir yra kad į iš su ne bet kaip tai buvo o",
        "lv": "un ir ka no ar par uz kas bet arī tas kā",
        "ms": "yang dan di ini itu dengan untuk dari tidak dalam pada akan",
        "nl": "de het een en van in is dat op te zijn met",
        "no": "og i det er en til som på av for at med",
        "pl": "i w na się z nie do to że jest o jak",
        "pt": "de a que e o do da em um para com não",
        "ro": "de și în a la cu care un o pe nu din",
        "ru": "и в не на что с по как это к из для",
        "sk": "a na sa v je že s to z do o pre",
        "sl": "in je v na se za da so ki z ne s",
        "sq": "të e në një dhe për me që është i nga si",
        "sr": "и у је на да се за су од с као који",
        "sr-Latn": "i u je na da se za su od s kao koji",
        "sv": "och i att det är en som på av för med den",
        "sw": "na ya wa kwa ni katika la za kama hii watu",
        "tr": "ve bir bu da de için ile çok ne gibi daha olarak",
        "uk": "і в не на що з та як це до у для",
        "ur": "کے کی میں ہے اور کا سے کو یہ پر نہیں کہ",
        "vi": "và của là có được cho trong không một các với này",
        "zh": "的 是 在 了 不 和 有 我 这",
    }
)


@functools.cache
def hash_stop_words(words: str, *, whole: bool = False) -> np.ndarray:
    """Return the hashes of words from `words.cut`, sorted; `whole` cuts only at spaces."""
    found = cut([words])
    if not whole:
        return np.unique(found.hashes)
    spans = [match.span() for match in re.finditer(r"\S+", words.lower())]
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    return np.unique(found.characters.hash(starts, ends))


def read_stop_words(path: str) -> dict[str, str]:
    """Read stop words by language.

    Args:
        path: path or URL of a CSV with lang and words, which are separated by spaces.
    """
    lists: dict[str, str] = {}

    def take(lang: str, row: Mapping[str, str]) -> None:
        words = row["words"]
        lists[lang] = words if len(hash_stop_words(words)) else ""

    give = "lang and words, separated by spaces"
    read_table(path, "the stop words", take, give, columns=("words",))
    return lists
