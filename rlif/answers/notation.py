r"""Tables of characters and LaTeX commands that mean the same; `rlif.answers.spelling` reads them."""

SYMBOLS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d", "-"),
    **dict.fromkeys("×·⋅∙", r"\cdot "),
    **dict.fromkeys("÷⁄∕", "/"),
    **dict.fromkeys("≤⩽≦", r"\le "),
    **dict.fromkeys("≥⩾≧", r"\ge "),
    **dict.fromkeys("′‘’ʹ", "'"),
    **dict.fromkeys("€£¥₹", ""),
    **dict.fromkeys("“”„", '"'),
    "∶": ":",
    **{"º": r"^{\circ}", "。": ".", "¢": r"\text{cents}", "∛": r"\sqrt[3]"},
    **{"±": r"\pm ", "∓": r"\mp ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap "},
    **{"∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}", "⟨": r"\langle ", "⟩": r"\rangle ", "…": r"\ldots "},
}
GREEK = [
    *["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"],
    *["nu", "xi", "omicron", "pi", "rho", "", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"],
]
SYMBOLS |= {chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(GREEK) if name}
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_SAME = {
    "": r"\left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr \displaystyle"
    r" \textstyle \limits \nolimits \! \$ $ \mathopen \mathclose \strut \- \/ \( \) \[ \]"
    r" \bf \rm \it \sf \bfseries \boldmath \small \normalsize \large \Large \LARGE \huge \Huge \scriptstyle",
    " ": r"\, \; \: \> ~ \quad \qquad \thinspace \enspace",
    r"\frac": r"\dfrac \tfrac \cfrac",
    r"\binom": r"\dbinom \tbinom",
    r"\le": r"\leq \leqslant",
    r"\ge": r"\geq \geqslant",
    r"\ne": r"\neq",
    r"\cdot": r"\times \ast *",
    r"\infty": r"\infin",
    r"\emptyset": r"\varnothing \O",
    "|": r"\lvert \rvert \vert \mid",
    r"^{\circ}": r"\degree \degrees",
    r"\text": r"\textbf \textit \textrm \textnormal \textsf \texttt \emph \mathrm \mathsf \mathtt \mbox"
    r" \hbox \operatorname",
    r"\letter": r"\mathbf \mathit \boldsymbol \bm \vec \hat \underline \ensuremath",  # of a variable
    "\\\\": r"\cr \tabularnewline \newline",
    r"\overline": r"\bar",
    r"\log": r"\lg",
    r"\ldots": r"\dots \cdots \dotsc",
    ":": r"\colon \ratio",
    "<": r"\lt",
    ">": r"\gt",
    "/": r"\div \slash",
    "%": r"\%",
    "#": r"\#",
    "&": r"\&",
    "[": r"\lbrack",
    "]": r"\rbrack",
    r"\{": r"\lbrace",
    r"\}": r"\rbrace",
    r"\phi": r"\varphi",
    r"\epsilon": r"\varepsilon",
    "i": r"\imath",
}
COMMANDS = {other: command for command, others in _SAME.items() for other in others.split()}
COMMANDS |= {"\\ ": " ", "\\\n": " "}

ARGUMENTS = {
    r"\frac": 2,
    r"\binom": 2,
    r"\sqrt": 1,
    "^": 1,
    "_": 1,
    r"\text": 1,
    r"\letter": 1,
    r"\overline": 1,
    r"\mathbb": 1,
}
