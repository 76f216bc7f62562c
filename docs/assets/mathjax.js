window.MathJax = {
  tex: {
    inlineMath: [["\\(", "\\)"]],
    displayMath: [["\\[", "\\]"]],
    processEscapes: true,
  },
  // Only what the Markdown extension marked as mathematics.
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" },
};
