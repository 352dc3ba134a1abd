"""The works that the methods text cites, as BibTeX entries."""

from __future__ import annotations

from collections.abc import Iterable

_WORKS: dict[str, tuple[str, str, str, str, str]] = {
    # key: (kind, author, title, venue field and value, year)
    "andrews1976": (
        "article",
        "Andrews, Harry C. and Patterson, Claude L.",
        "Singular value decompositions and digital image processing",
        "IEEE Transactions on Acoustics, Speech, and Signal Processing 24(1), 26--53",
        "1976",
    ),
    "andriushchenko2020": (
        "inproceedings",
        "Andriushchenko, Maksym and Croce, Francesco and Flammarion, Nicolas and Hein, Matthias",
        "Square Attack: a query-efficient black-box adversarial attack via random search",
        "European Conference on Computer Vision (ECCV)",
        "2020",
    ),
    "athalye2018eot": (
        "inproceedings",
        "Athalye, Anish and Engstrom, Logan and Ilyas, Andrew and Kwok, Kevin",
        "Synthesizing robust adversarial examples",
        "International Conference on Machine Learning (ICML)",
        "2018",
    ),
    "athalye2018obfuscated": (
        "inproceedings",
        "Athalye, Anish and Carlini, Nicholas and Wagner, David",
        "Obfuscated gradients give a false sense of security: Circumventing defenses to adversarial examples",
        "International Conference on Machine Learning (ICML)",
        "2018",
    ),
    "bjontegaard2001": (
        "techreport",
        "Bj{\\o}ntegaard, Gisle",
        "Calculation of average PSNR differences between RD-curves",
        "ITU-T VCEG, document VCEG-M33",
        "2001",
    ),
    "carlini2017": (
        "inproceedings",
        "Carlini, Nicholas and Wagner, David",
        "Towards evaluating the robustness of neural networks",
        "IEEE Symposium on Security and Privacy",
        "2017",
    ),
    "carlini2019": (
        "article",
        "Carlini, Nicholas and others",
        "On evaluating adversarial robustness",
        "arXiv:1902.06705",
        "2019",
    ),
    "croce2020": (
        "inproceedings",
        "Croce, Francesco and Hein, Matthias",
        "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
        "International Conference on Machine Learning (ICML)",
        "2020",
    ),
    "dong2018": (
        "inproceedings",
        "Dong, Yinpeng and Liao, Fangzhou and Pang, Tianyu and Su, Hang and Zhu, Jun and Hu, Xiaolin and Li, Jianguo",
        "Boosting adversarial attacks with momentum",
        "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)",
        "2018",
    ),
    "efron1993": (
        "book",
        "Efron, Bradley and Tibshirani, Robert J.",
        "An introduction to the bootstrap",
        "Chapman and Hall",
        "1993",
    ),
    "goodfellow2015": (
        "inproceedings",
        "Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian",
        "Explaining and harnessing adversarial examples",
        "International Conference on Learning Representations (ICLR)",
        "2015",
    ),
    "guo2017": (
        "inproceedings",
        "Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.",
        "On calibration of modern neural networks",
        "International Conference on Machine Learning (ICML)",
        "2017",
    ),
    "han2021": (
        "article",
        "Han, Jingning and others",
        "A technical overview of AV1",
        "Proceedings of the IEEE 109(9), 1435--1462",
        "2021",
    ),
    "holm1979": (
        "article",
        "Holm, Sture",
        "A simple sequentially rejective multiple test procedure",
        "Scandinavian Journal of Statistics",
        "1979",
    ),
    "kim2020": (
        "article",
        "Kim, Hoki",
        "Torchattacks: A PyTorch repository for adversarial attacks",
        "arXiv:2010.01950",
        "2020",
    ),
    "madry2018": (
        "inproceedings",
        "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian",
        "Towards deep learning models resistant to adversarial attacks",
        "International Conference on Learning Representations (ICLR)",
        "2018",
    ),
    "mcnemar1947": (
        "article",
        "McNemar, Quinn",
        "Note on the sampling error of the difference between correlated proportions or percentages",
        "Psychometrika",
        "1947",
    ),
    "owen2007": (
        "article",
        "Owen, Art B.",
        "The pigeonhole bootstrap",
        "The Annals of Applied Statistics",
        "2007",
    ),
    "ashtari2024": (
        "article",
        "Ashtari, Pooya and others",
        "Quantization-free lossy image compression using integer matrix factorization",
        "arXiv:2408.12691",
        "2024",
    ),
    "rfc2024": (
        "techreport",
        "Zern, James and Massimino, Pascal and Alakuijala, Jyrki",
        "WebP image format",
        "IETF, RFC 9649",
        "2024",
    ),
    "riba2020": (
        "inproceedings",
        "Riba, Edgar and Mishkin, Dmytro and Ponsa, Daniel and Rublee, Ethan and Bradski, Gary",
        "Kornia: an open source differentiable computer vision library for PyTorch",
        "IEEE Winter Conference on Applications of Computer Vision (WACV)",
        "2020",
    ),
    "sullivan2012": (
        "article",
        "Sullivan, Gary J. and Ohm, Jens-Rainer and Han, Woo-Jin and Wiegand, Thomas",
        "Overview of the High Efficiency Video Coding (HEVC) standard",
        "IEEE Transactions on Circuits and Systems for Video Technology 22(12), 1649--1668",
        "2012",
    ),
    "tango1998": (
        "article",
        "Tango, Toshiro",
        "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
        "Statistics in Medicine",
        "1998",
    ),
    "taubman2002": (
        "article",
        "Taubman, David S. and Marcellin, Michael W.",
        "JPEG2000: standard for interactive imaging",
        "Proceedings of the IEEE 90(8), 1336--1357",
        "2002",
    ),
    "toderici2016": (
        "inproceedings",
        "Toderici, George and others",
        "Variable rate image compression with recurrent neural networks",
        "International Conference on Learning Representations (ICLR)",
        "2016",
    ),
    "wallace1992": (
        "article",
        "Wallace, Gregory K.",
        "The JPEG still picture compression standard",
        "IEEE Transactions on Consumer Electronics",
        "1992",
    ),
    "wang2004": (
        "article",
        "Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.",
        "Image quality assessment: from error visibility to structural similarity",
        "IEEE Transactions on Image Processing",
        "2004",
    ),
    "westfall2001": (
        "article",
        "Westfall, Peter H. and Krishen, Alok",
        "Optimally weighted, fixed sequence and gatekeeper multiple testing procedures",
        "Journal of Statistical Planning and Inference",
        "2001",
    ),
    "wiegand2003": (
        "article",
        "Wiegand, Thomas and Sullivan, Gary J. and Bj{\\o}ntegaard, Gisle and Luthra, Ajay",
        "Overview of the H.264/AVC video coding standard",
        "IEEE Transactions on Circuits and Systems for Video Technology 13(7), 560--576",
        "2003",
    ),
    "wilson1927": (
        "article",
        "Wilson, Edwin B.",
        "Probable inference, the law of succession, and statistical inference",
        "Journal of the American Statistical Association",
        "1927",
    ),
}
_VENUES = {"inproceedings": "booktitle", "article": "journal", "book": "publisher", "techreport": "institution"}


def bibtex(keys: Iterable[str]) -> str:
    """The entries of some keys, sorted; raises `KeyError` for one that is unknown."""
    entries: list[str] = []
    for key in sorted(set(keys)):
        kind, author, title, venue, year = _WORKS[key]
        values = {"author": author, "title": title, _VENUES[kind]: venue, "year": year}
        # braces keep capitals as they stand
        lines = [
            f"  {name} = {{{f'{{{value}}}' if name == 'title' else value}}}" for name, value in values.items()
        ]
        entries.append(f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}")
    return "\n\n".join(entries)
