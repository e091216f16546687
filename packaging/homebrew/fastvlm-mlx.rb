# A formula for a tap of one's own: brew install OWNER/tap/fastvlm-mlx.
# `version` is in the url; the release workflow prints the sha256 of the new one.
class FastvlmMlx < Formula
  desc "Apple's FastVLM vision language model on Apple silicon, in MLX"
  homepage "https://github.com/OWNER/fastvlm-mlx"
  url "https://files.pythonhosted.org/packages/source/f/fastvlm-mlx/fastvlm_mlx-0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "MIT"
  head "https://github.com/OWNER/fastvlm-mlx.git", branch: "main"

  depends_on arch: :arm64
  depends_on :macos
  depends_on "python@3.13"

  def install
    (libexec/"source").install Dir["*"]
    bin.write_exec_script libexec/"venv/bin/fastvlm-mlx"
  end

  # Not in `install`, after which Homebrew rewrites the names in all libraries: those of
  # Rust in wheels have no room for that.
  def post_install
    python = Formula["python@3.13"].opt_bin/"python3.13"
    system python, "-m", "venv", "--clear", libexec/"venv"
    system libexec/"venv/bin/python", "-m", "pip", "install", "--no-cache-dir", "#{libexec}/source[serve]"
  end

  def caveats
    <<~EOS
      Completion for your shell is installed by
        fastvlm-mlx --install-completion
    EOS
  end

  service do
    run [opt_bin/"fastvlm-mlx", "serve"]
    keep_alive true
    log_path var/"log/fastvlm-mlx.log"
    error_log_path var/"log/fastvlm-mlx.log"
  end

  test do
    ENV["FASTVLM_DEVICE"] = "cpu" # a virtual machine's GPU cannot be trusted
    assert_match version.to_s, shell_output("#{bin}/fastvlm-mlx --version")
    # The model `demo` is in the package, and answers without a network.
    draw = "from PIL import Image; Image.new('RGB', (256, 256), 'red').save('red.png')"
    system libexec/"venv/bin/python", "-c", draw
    answer = shell_output("#{bin}/fastvlm-mlx chat red.png -m demo -p 'Describe the image.'")
    assert_match(/\w/, answer)
  end
end
