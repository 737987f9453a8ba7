//! Factors of integers, as far as they are cheap to find.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::Stop;
use super::poly::BITS_MAX;
use crate::verify::budget::Budget;

/// Trial division stops below this: what is left below its square is prime.
const TRIAL_MAX: u64 = 10_000;

/// A factor above one, how often it occurs, and whether it is proven to be prime.
pub(super) type Factor = (BigInt, u32, bool);

/// Factors of a positive integer by trial division, then by roots. Their product is the integer; those that are not
/// proven prime are not known to be composite either.
///
/// # Errors
/// When the budget does not allow it, or the integer is longer than [`BITS_MAX`].
pub(super) fn factors(value: &BigInt, budget: &mut Budget) -> Result<Vec<Factor>, Stop> {
    let mut found = Vec::new();
    if value.bits() > BITS_MAX {
        return Err(Stop::Unsure);
    }
    let mut long = value.clone();
    if long.to_u64().is_none() {
        // Each division of a long integer costs its length: only the smallest primes are tried.
        budget.spend(20 + value.bits() / 4)?;
        for prime in [2_u32, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47] {
            let mut times = 0;
            if prime == 2 {
                times = u32::try_from(long.trailing_zeros().unwrap_or(0)).map_err(|_| Stop::Unsure)?;
                long >>= times;
            } else {
                while (&long % prime).is_zero() {
                    budget.spend(1 + long.bits() / 64)?;
                    long /= prime;
                    times += 1;
                }
            }
            if times > 0 {
                found.push((prime.into(), times, true));
            }
        }
    }
    let Some(mut left) = long.to_u64() else {
        let (root, times) = perfect_power(&long, budget)?;
        match root.to_u64() {
            Some(root) => {
                let inner = small_factors(root, budget)?;
                found.extend(inner.into_iter().map(|(p, n, proven)| (p, n * times, proven)));
            }
            None => found.push((root, times, false)),
        }
        return Ok(found);
    };
    if left > 1 {
        found.extend(small_factors(std::mem::take(&mut left), budget)?);
    }
    Ok(found)
}

/// Factors of an integer of one word.
fn small_factors(mut left: u64, budget: &mut Budget) -> Result<Vec<Factor>, Stop> {
    let mut found: Vec<Factor> = Vec::new();
    let twos = left.trailing_zeros();
    if twos > 0 {
        found.push((2.into(), twos, true));
        left >>= twos;
    }
    let mut divisor = 3;
    let mut unpaid = 0;
    while divisor < TRIAL_MAX && divisor * divisor <= left {
        let mut times = 0;
        while left.is_multiple_of(divisor) {
            left /= divisor;
            times += 1;
        }
        if times > 0 {
            found.push((divisor.into(), times, true));
        }
        divisor += 2;
        unpaid += 1;
        if unpaid == 64 {
            budget.spend(4)?;
            unpaid = 0;
        }
    }
    if left > 1 {
        budget.spend(20)?;
        let (root, times) = perfect_power(&left.into(), budget)?;
        let proven = root.to_u64().is_some_and(|root| root < TRIAL_MAX * TRIAL_MAX || is_prime(root));
        found.push((root, times, proven));
    }
    Ok(found)
}

/// The integer as a power of an integer, with the largest exponent that is a product of small primes.
fn perfect_power(value: &BigInt, budget: &mut Budget) -> Result<(BigInt, u32), Stop> {
    let mut root = value.clone();
    let mut times = 1;
    for degree in [2_u32, 3, 5, 7] {
        while root.bits() > u64::from(degree) * 13 {
            budget.spend(4 + root.bits() / 8)?;
            let candidate = root.nth_root(degree);
            if candidate.pow(degree) != root {
                break;
            }
            root = candidate;
            times *= degree;
        }
    }
    Ok((root, times))
}

/// Miller and Rabin's test with the first twelve primes as bases, which is a proof below 2^64 (Sorenson and Webster,
/// "Strong pseudoprimes to twelve prime bases", 2015).
fn is_prime(value: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if value < 2 || BASES.iter().any(|base| value.is_multiple_of(*base)) {
        return BASES.contains(&value);
    }
    let multiply = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(value)) as u64;
    let twos = (value - 1).trailing_zeros();
    let odd = (value - 1) >> twos;
    BASES.iter().all(|base| {
        let (mut power, mut square, mut left) = (1, *base, odd);
        while left > 0 {
            if left & 1 == 1 {
                power = multiply(power, square);
            }
            square = multiply(square, square);
            left >>= 1;
        }
        for _ in 0..twos {
            if power == 1 || power == value - 1 {
                return true;
            }
            power = multiply(power, power);
            if power == 1 {
                return false;
            }
        }
        false
    })
}

/// `n!`, if it is of bounded length.
pub(super) fn factorial(n: u32, budget: &mut Budget) -> Result<BigInt, Stop> {
    // 525! is the last below 2^4006.
    if n > 525 {
        return Err(Stop::Unsure);
    }
    budget.spend(1 + u64::from(n) * (1 + u64::from(n) / 16) / 4)?;
    Ok((2..=n).fold(BigInt::one(), |product, factor| product * factor))
}

/// The binomial coefficient of a natural `n`, if it is of bounded length; zero outside `0..=n`.
pub(super) fn binomial(n: &BigInt, k: &BigInt, budget: &mut Budget) -> Result<BigInt, Stop> {
    if n.is_negative() {
        return Err(Stop::Unsure);
    }
    if k.is_negative() || k > n {
        return Ok(BigInt::zero());
    }
    let few = k.min(&(n - k)).to_u64().ok_or(Stop::Unsure)?;
    // At least (n/k)^k, and at least 2^k.
    if few > BITS_MAX || few * n.bits().saturating_sub(few.max(1).ilog2().into()).saturating_sub(2) > BITS_MAX {
        return Err(Stop::Unsure);
    }
    budget.spend(1 + few * (2 + few / 16))?;
    let mut product = BigInt::one();
    for index in 0..few {
        product = product * (n - index) / (index + 1);
    }
    if product.bits() > BITS_MAX { Err(Stop::Unsure) } else { Ok(product) }
}

/// `base^exponent mod modulus` of integers, for a positive modulus and a natural exponent.
pub(super) fn power_mod(
    base: &BigInt,
    exponent: &BigInt,
    modulus: &BigInt,
    budget: &mut Budget,
) -> Result<BigInt, Stop> {
    let words = 1 + modulus.bits() / 64;
    budget.spend(exponent.bits().saturating_mul(2 + words * words))?;
    Ok(base.mod_floor(modulus).modpow(exponent, modulus))
}
