# Stands for conda: what `conda activate` does to the environment.
conda() {
  [ "$1" = activate ] || return 1
  export CONDA_PREFIX="$HOME/miniconda3/envs/$2" CONDA_DEFAULT_ENV="$2"
  export PATH="$CONDA_PREFIX/bin:$PATH"
}
